"use strict";
// Which neighbours of a cell work, the nearest first: the rule of portmatrix.advice, so that the page says what
// `portmatrix explain` says.
portmatrix.advise = (cells, at) => {
  const { columns, words, roads, families } = cells;
  const WORKING = new Set(["PASS", "DEGRADED", "XPASS"]);
  const UNKNOWN = new Set(["ERROR", "SKIP", "NOT_RUN", "COULD_RUN"]);
  const referees = new Set(cells.referees);
  const STEP = { batch: 1, version: 2, variant: 4, runtime: 8, kind: 16 }; // each more than all smaller ones together
  const same = (other, axes) => axes.every((axis) => columns[axis][other] === columns[axis][at]);
  const name = (other) => words.outcome[columns.outcome[other]];
  const works = (other) => WORKING.has(name(other));
  const road = (path) => roads[columns.framework[at]]?.[path];

  const oneName = (one, other) => {
    const [short, long] = [one, other].sort((a, b) => a.length - b.length);
    return long.startsWith(`${short}-`);
  };

  const pathSteps = (path, other) => {
    const [mine, theirs] = [road(path), road(other)];
    if (!mine || !theirs) return STEP.kind; // a path that the suite has no more: it may be anything
    const [kind, form, batch] = mine;
    const [theirKind, theirForm, theirBatch] = theirs;
    let steps = batch !== theirBatch ? STEP.batch : 0;
    if (kind !== theirKind) steps |= STEP.kind;
    else if (batch === theirBatch || form !== theirForm || !oneName(words.path[path], words.path[other])) {
      steps |= STEP.variant;
    }
    return steps;
  };

  const distance = (other) => {
    const [path, runtime] = [columns.path[at], columns.runtime[at]];
    const [theirPath, theirRuntime] = [columns.path[other], columns.runtime[other]];
    let steps = path === theirPath ? 0 : pathSteps(path, theirPath);
    if (runtime !== theirRuntime) {
      steps |= families[runtime] === families[theirRuntime] ? STEP.version : STEP.runtime;
    }
    return steps;
  };

  // What to do otherwise than at this cell to come to a neighbour.
  const change = (other) => {
    const parts = [];
    if (columns.path[other] !== columns.path[at]) {
      const theirs = road(columns.path[other]);
      const nature = theirs ? ` (${theirs[0]}, ${theirs[2]} batch)` : "";
      parts.push(`export by ${words.path[columns.path[other]]}${nature} instead of ${words.path[columns.path[at]]}`);
    }
    if (columns.runtime[other] !== columns.runtime[at]) {
      parts.push(`run it by ${words.runtime[columns.runtime[other]]} instead of ${words.runtime[columns.runtime[at]]}`);
    }
    const [opset, theirs] = [columns.opset[at], columns.opset[other]].map((code) => words.opset[code]);
    return parts.join(", and ") + (opset && theirs && opset !== theirs ? ` (opset ${theirs} instead of ${opset})` : "");
  };

  const beside = [];
  const elsewhere = [];
  for (let other = 0; other < cells.size; other += 1) {
    if (other === at || !same(other, ["framework", "model"])) continue;
    if (columns.target[other] === columns.target[at]) beside.push(other);
    else if (same(other, ["path", "runtime"]) && works(other)) elsewhere.push(other);
  }
  const key = new Map(beside.map((other) => [other, [distance(other), referees.has(columns.runtime[other]) ? 1 : 0,
    name(other) === "DEGRADED" ? 1 : 0, columns.path[other], columns.runtime[other]]]));
  beside.sort((one, other) => {
    const [mine, theirs] = [key.get(one), key.get(other)];
    const first = mine.findIndex((value, number) => value !== theirs[number]);
    return first < 0 ? 0 : mine[first] - theirs[first];
  });
  elsewhere.sort((one, other) => columns.target[one] - columns.target[other]);
  const told = (others) => others.map((other) => ({ at: other, change: change(other) }));
  return {
    state: works(at) ? "works" : UNKNOWN.has(name(at)) ? "unknown" : "fails",
    beside: told(beside),
    works: told(beside.filter(works)),
    untried: told(beside.filter((other) => UNKNOWN.has(name(other)) && cells.flag("planned", other))),
    elsewhere: told(elsewhere),
  };
};
