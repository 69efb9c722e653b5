// The index of all entries: rows that do not match are hidden. Without JavaScript the whole table is there.

export function setupFilters(): void {
  const form = document.querySelector<HTMLFormElement>("form.filters:not([data-ready])");
  if (!form) return;
  form.dataset.ready = "";
  form.hidden = false;
  const rows = [...document.querySelectorAll<HTMLTableRowElement>("table.entries tbody tr")];
  const count = form.querySelector("output")!;
  const apply = () => {
    const wanted = new FormData(form);
    let shown = 0;
    for (const row of rows) {
      const fits = [...wanted].every(([name, value]) => value === ""
        || (name === "text" ? row.textContent!.toLowerCase().includes(String(value).toLowerCase()) : row.dataset[name] === value));
      row.hidden = !fits;
      if (fits) shown += 1;
    }
    count.textContent = `${shown} of ${rows.length} entries`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  apply();
}
