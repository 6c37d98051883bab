"use strict";
// A cell's history as a picture: how it ended each time, and below that how fast it was.
portmatrix.timeline = (cells, history) => {
  const { el, svg, number, seconds } = portmatrix;
  const WIDTH = Math.max(320, Math.min(720, document.getElementById("main").clientWidth - 24));
  const [LEFT, RIGHT, MARKS, TOP, BOTTOM] = [74, WIDTH - 16, 26, 52, 168];
  const times = history.map((past) => Date.parse(past.started));
  const [from, to] = [Math.min(...times), Math.max(...times)];
  const x = (time) => (to > from ? LEFT + ((time - from) / (to - from)) * (RIGHT - LEFT) : (LEFT + RIGHT) / 2);
  const day = (time) => new Date(time).toISOString().slice(0, 10);
  const outcomes = new Map(cells.outcomes.map(([name, mark, word]) => [name, { mark, word }]));
  const text = (attributes, words) => svg("text", attributes, words);

  const ended = history.map((past, place) => text(
    { x: x(times[place]), y: MARKS, "text-anchor": "middle", class: `t-${past.outcome}` },
    outcomes.get(past.outcome)?.mark ?? "?"));
  ended.forEach((mark, place) => {
    const past = history[place];
    mark.append(svg("title", {}, `${past.started}: ${outcomes.get(past.outcome)?.word ?? past.outcome}${past.stage ? ` at ${past.stage}` : ""}`));
  });

  const measured = history.map((past, place) => ({ ...past, time: times[place] }))
    .filter((past) => past.ratio !== undefined || past.p50 !== undefined);
  const byRatio = measured.every((past) => past.ratio !== undefined);
  const value = (past) => (byRatio ? past.ratio : past.p50);
  const words = (amount) => (byRatio ? number(amount) : seconds(amount));

  const latency = () => {
    const ends = measured.flatMap((past) => (byRatio ? [past.ratio, past.low ?? past.ratio, past.high ?? past.ratio] : [past.p50]));
    const spread = Math.max(...ends) - Math.min(...ends) || Math.max(...ends) || 1;
    const [least, most] = [Math.max(0, Math.min(...ends) - 0.1 * spread), Math.max(...ends) + 0.1 * spread];
    const y = (amount) => BOTTOM - ((amount - least) / (most - least)) * (BOTTOM - TOP);
    const cpus = [...new Set(measured.map((past) => past.cpu ?? ""))];
    const ticks = [0, 0.5, 1].map((share) => least + share * (most - least)).flatMap((tick) => [
      svg("line", { x1: LEFT, x2: RIGHT, y1: y(tick), y2: y(tick), class: "rule" }),
      text({ x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, words(tick)),
    ]);
    const series = cpus.flatMap((cpu, number_) => {
      const points = measured.filter((past) => (past.cpu ?? "") === cpu);
      const path = points.map((past, place) => `${place ? "L" : "M"}${x(past.time).toFixed(1)} ${y(value(past)).toFixed(1)}`).join("");
      return [
        svg("path", { d: path, class: `line s${number_ % 4}` }),
        ...points.flatMap((past) => [
          byRatio && past.low !== undefined
            ? svg("line", { x1: x(past.time), x2: x(past.time), y1: y(past.low), y2: y(past.high), class: `bar s${number_ % 4}` }) : null,
          svg("circle", { cx: x(past.time), cy: y(value(past)), r: 3.5, class: `${past.unstable ? "hollow " : ""}s${number_ % 4}` },
            svg("title", {}, `${past.started}: ${words(value(past))}${past.unstable ? ", unstable" : ""}`)),
        ]),
      ];
    });
    const legend = cpus.length > 1 ? cpus.map((cpu, place) => text(
      { x: LEFT + (place % 2) * (WIDTH / 2 - 40), y: BOTTOM + 40 + 16 * Math.floor(place / 2), class: `s${place % 4}` }, `● ${cpu || "unknown processor"}`)) : [];
    return [...ticks, ...series, ...legend, text({ x: LEFT, y: TOP - 10 }, byRatio ? "ratio to the baseline" : "p50")];
  };

  const bottom = measured.length ? BOTTOM : MARKS + 12;
  const cpus = new Set(measured.map((past) => past.cpu)).size;
  const height = bottom + 26 + (cpus > 1 ? 16 * Math.ceil(cpus / 2) + 4 : 0);
  const said = `${history.length} records from ${day(from)} to ${day(to)}; the table below has the same`;
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": said },
    text({ x: LEFT - 14, y: MARKS, "text-anchor": "end" }, "outcome"),
    svg("g", { class: history.length > (RIGHT - LEFT) / 14 ? "dense" : undefined }, ended), measured.length ? latency() : [],
    text({ x: x(from), y: bottom + 18, "text-anchor": to > from ? "start" : "middle" }, day(from)),
    to > from ? text({ x: RIGHT, y: bottom + 18, "text-anchor": "end" }, day(to)) : null);

  const head = ["started", "outcome", "stage", "p50", "ratio", "95% interval", "run", "reason"];
  const rows = [...history].reverse().map((past) => [
    past.started, outcomes.get(past.outcome)?.word ?? past.outcome, past.stage, seconds(past.p50), number(past.ratio),
    past.low === undefined ? "" : `${number(past.low)} to ${number(past.high)}`, past.run, past.reason]);
  return [
    el("figure", { class: "plot timeline" }, picture),
    el("details", {}, el("summary", {}, "The same as a table"), portmatrix.tabled(head, rows, "History")),
  ];
};
