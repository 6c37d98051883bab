"use strict";
// All cells, column by column: what the matrix, a cell's page and the advice read.
portmatrix.AXES = ["framework", "model", "path", "runtime", "target"];
portmatrix.cells = portmatrix.load("cells").then((data) => {
  const { AXES } = portmatrix;
  const numbers = new Set(["needed", "ratio", "p50"]);
  const columns = Object.fromEntries(Object.entries(data.columns).map(([name, values]) => [name, numbers.has(name)
    ? Float64Array.from(values, (value) => value ?? NaN) : Uint32Array.from(values)]));
  const size = columns.outcome.length;
  const none = (words) => ["", ...words]; // of columns that count from 1
  // What each number of a column stands for.
  const words = {
    ...data.axes,
    outcome: data.outcomes.map(([name]) => name),
    stage: none(data.stages),
    reach: none(data.reaches.map(([name]) => name)),
    change: none(data.changes),
    reason: none(data.reasons),
    opset: none(data.opsets),
  };
  const word = (name, at) => words[name][columns[name][at]];
  const id = (at) => AXES.map((axis) => word(axis, at)).join("/");
  const flag = (name, at) => (columns.flags[at] & data.flags[name]) !== 0;

  // The place of the cell with that id, -1 if there is none.
  const find = (wanted) => {
    const parts = wanted.split("/");
    if (parts.length !== AXES.length) return -1;
    const codes = parts.map((part, number) => words[AXES[number]].indexOf(part));
    if (codes.includes(-1)) return -1;
    const searched = AXES.map((axis) => columns[axis]);
    for (let at = 0; at < size; at += 1) {
      if (searched.every((column, number) => column[at] === codes[number])) return at;
    }
    return -1;
  };

  const address = (at) => `cell.html#${encodeURIComponent(id(at)).replaceAll("%2F", "/")}`;
  const [names, marks, said, claims] = [0, 1, 2, 3].map((field) => data.outcomes.map((outcome) => outcome[field]));
  const outcome = (at) => {
    const code = columns.outcome[at];
    return { name: names[code], mark: marks[code], word: said[code], claim: claims[code] };
  };
  const letters = none(data.reaches.map(([, letter]) => letter));
  const remarks = (at) => `${letters[columns.reach[at]] ? ` (${letters[columns.reach[at]]})` : ""}${
    flag("archived", at) ? " †" : ""}`;
  const details = async (at) =>
    (await portmatrix.load(`details-${Math.floor(at / data.chunk)}`))[at % data.chunk];

  return { ...data, columns, size, words, word, id, flag, find, address, outcome, remarks, details };
});

// An outcome as a mark and a word, in its colour.
portmatrix.outcome = (shown) => portmatrix.el("span", { class: `outcome o-${shown.name}`, title: shown.claim },
  portmatrix.el("span", { "aria-hidden": "true" }, shown.mark), ` ${shown.word}`);
