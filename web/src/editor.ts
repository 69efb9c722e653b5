// The editor of a live cell, loaded when the reader first wants to edit.
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { python } from "@codemirror/lang-python";
import { bracketMatching, codeFolding, foldEffect, foldGutter, foldKeymap, HighlightStyle, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { EditorState, StateEffect, StateField } from "@codemirror/state";
import { Decoration, type DecorationSet, drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags as t } from "@lezer/highlight";

const colour = (name: string) => `var(--md-code-hl-${name}-color)`;
const highlight = HighlightStyle.define([
  { tag: [t.keyword, t.controlKeyword, t.operatorKeyword, t.definitionKeyword, t.moduleKeyword], color: colour("keyword") },
  { tag: [t.string, t.special(t.string)], color: colour("string") },
  { tag: [t.number, t.bool, t.null], color: colour("number") },
  { tag: [t.comment], color: colour("comment") },
  { tag: [t.function(t.definition(t.variableName)), t.definition(t.className)], color: colour("function") },
  { tag: [t.operator], color: colour("operator") },
  { tag: [t.meta], color: colour("special") },
]);

const markLine = StateEffect.define<number | null>();
const marked = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(marks, transaction) {
    if (transaction.docChanged) marks = Decoration.none;
    for (const effect of transaction.effects) {
      if (!effect.is(markLine)) continue;
      const lines = transaction.state.doc.lines;
      marks = effect.value === null || effect.value < 1 || effect.value > lines ? Decoration.none
        : Decoration.set(Decoration.line({ class: "live-error-line", attributes: { "aria-invalid": "true" } }).range(transaction.state.doc.line(effect.value).from));
    }
    return marks;
  },
  provide: (field) => EditorView.decorations.from(field),
});

export interface Editor { focus(): void; get(): string; set(text: string): void; mark(line: number | null): void }

export function createEditor(host: HTMLElement, text: string, on: { change(text: string): void; run(): void; leave(): void }): Editor {
  const view = new EditorView({
    parent: host,
    state: EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(), foldGutter(), codeFolding(), history(), drawSelection(), indentOnInput(), bracketMatching(), highlightActiveLine(),
        indentUnit.of("    "), python(), syntaxHighlighting(highlight), marked,
        keymap.of([
          { key: "Mod-Enter", run: () => { on.run(); return true; } },
          { key: "Escape", run: () => { on.leave(); return true; } },
          indentWithTab, ...defaultKeymap, ...historyKeymap, ...foldKeymap,
        ]),
        EditorView.updateListener.of((update) => { if (update.docChanged) on.change(update.state.doc.toString()); }),
        EditorView.contentAttributes.of({ "aria-label": "Python code. Escape leaves the editor, Control Enter runs.", spellcheck: "false" }),
      ],
    }),
  });
  const fold = () => {
    const at = /^# %% demo.*$/m.exec(view.state.doc.toString());
    if (at) view.dispatch({ effects: foldEffect.of({ from: at.index + at[0].length, to: view.state.doc.length }) });
  };
  fold();
  return {
    focus: () => view.focus(),
    get: () => view.state.doc.toString(),
    set(next) {
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: next } });
      fold();
    },
    mark(line) {
      view.dispatch({ effects: line === null ? markLine.of(null) : [markLine.of(line), EditorView.scrollIntoView(view.state.doc.line(Math.min(Math.max(line, 1), view.state.doc.lines)).from, { y: "nearest" })] });
    },
  };
}
