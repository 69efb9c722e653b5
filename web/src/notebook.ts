// A snippet is in the percent format: each `# %%` begins a cell of a notebook.

export function notebook(title: string, page: string, wheel: string, source: string): string {
  const cells = source.split(/^# %%.*\n/m).map((s) => s.trim()).filter(Boolean);
  const lines = (text: string) => text.split("\n").map((line, i, all) => (i < all.length - 1 ? `${line}\n` : line));
  const code = (text: string) => ({ cell_type: "code", metadata: {}, execution_count: null, outputs: [], source: lines(text) });
  const head = `# ${title}\n\nFrom ${page}. The \`snippets\` package comes from the same site:`;
  return JSON.stringify({
    nbformat: 4,
    nbformat_minor: 4,
    metadata: { kernelspec: { name: "python3", display_name: "Python 3", language: "python" }, language_info: { name: "python" } },
    cells: [{ cell_type: "markdown", metadata: {}, source: lines(head) }, code(`%pip install -q numpy ${wheel}`), ...cells.map(code), code("for figure in show():\n    display(figure)")],
  }, null, 1);
}
