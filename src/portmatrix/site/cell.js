"use strict";
// The page of the cell that the address names: what happened, what it means, and what to do about it.

// A table that scrolls by itself where it is too wide; columns in which nothing stands are left out.
portmatrix.tabled = (head, rows, label) => {
  const { el } = portmatrix;
  const kept = head.map((_, number) => number).filter((number) => rows.some((row) => row[number] !== "" && row[number] !== undefined && row[number] !== null));
  const line = (row, tag, attributes) => el("tr", {}, kept.map((number) => el(tag, attributes, row[number] ?? "")));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", {}, el("thead", {}, line(head, "th", { scope: "col" })), el("tbody", {}, rows.map((row) => line(row, "td", {})))));
};

portmatrix.cells.then((cells) => {
  const { el, number, seconds, bytes, count, percent, command, quoted, tabled, outward, AXES } = portmatrix;
  const { columns, words } = cells;
  const title = document.getElementById("cell-title");
  const place = document.getElementById("cell");
  const crumbs = document.getElementById("crumbs");
  const LIMIT = 12; // entries of a list that are shown at once
  let at = -1;
  let rerun = null;

  const section = (head, ...content) => {
    const kept = content.flat(Infinity).filter((item) => item !== null && item !== undefined);
    return kept.length ? el("section", {}, el("h2", {}, head), kept) : null;
  };
  const paragraph = (text, kind) => (text ? el("p", { class: `said ${kind ?? ""}` }, text) : null);
  const cellLink = (other) => el("a", { href: cells.address(other) }, cells.id(other));
  const filtered = (wanted) => `matrix.html#${new URLSearchParams(wanted)}`;

  const pairs = (entries) => {
    const kept = entries.filter(([, value]) => value !== "" && value !== undefined && value !== null && value.length !== 0);
    if (!kept.length) return null;
    return el("dl", {}, kept.map(([name, value]) => [el("dt", {}, name),
      el("dd", {}, Array.isArray(value) ? value.map((item) => el("div", {}, String(item))) : String(value))]));
  };

  const more = (items, made) => {
    if (items.length <= LIMIT + 4) return el("ul", {}, items.map(made));
    const shown = items.slice(0, LIMIT).map(made);
    const button = el("button", { type: "button" }, `${count(items.length - LIMIT)} more`);
    const list = el("ul", {}, shown);
    button.addEventListener("click", () => { list.append(...items.slice(LIMIT).map(made)); button.remove(); });
    return [list, button];
  };

  // --- What happened ----------------------------------------------------------------------------------------------

  const head = (record) => {
    const shown = cells.outcome(at);
    const reach = cells.word("reach", at);
    const facts = [
      el("span", { class: `verdict o-${shown.name}` }, el("span", { "aria-hidden": "true" }, shown.mark), ` ${shown.word}`),
      record.stage ? el("span", {}, `at ${record.stage}`) : null,
      el("span", {}, shown.claim),
      shown.name === record.outcome ? null : el("span", {}, `recorded as ${record.outcome}`),
      reach ? el("span", {}, `reached: ${reach}`) : null,
      record.archived ? el("span", {}, "† from an archived bundle") : null,
      record.reused ? el("span", {}, `reused: nothing has changed since ${record.measured ?? "an earlier run"}`) : null,
    ];
    return el("p", { class: "headline" }, facts);
  };

  const foretold = (detail, record) => {
    const entries = detail.foretold ?? [];
    if (!entries.length) return paragraph(record.expected && `Expected in matrix.yaml: ${record.expected}`);
    return entries.map(([outcome, stage, reason, link]) => el("p", { class: "said" },
      `Expected in matrix.yaml: ${outcome} at ${stage}: ${reason} `, link ? outward(link) : ""));
  };

  const outputs = (found, reason) => {
    if (!found?.length) return null;
    const tolerance = ({ atol, rtol }) => `${number(atol)} + ${number(rtol)}·|ref|`;
    const passing = ({ needed, tolerance: { atol, rtol } }) =>
      (typeof needed === "number" ? tolerance({ atol: atol * needed, rtol: rtol * needed }) : "none would");
    const rows = found.map((one) => [one.output, one.batch, one.verdict, typeof one.needed === "number" ? `${number(one.needed)}×` : "none",
      passing(one), tolerance(one.tolerance), number(one.max_abs), number(one.max_rel), percent(one.mismatched), percent(one.top1),
      one.snr_db === null && one.max_abs === 0 ? "∞" : number(one.snr_db),
      typeof one.cosine === "number" ? one.cosine.toFixed(6) : number(one.cosine), one.dtype, one.shape.join("×"), count(one.elements)]);
    const heads = ["output", "batch", "verdict", "needed", "tolerance that would pass", "strict tolerance", "max. difference", "relative",
      "outside", "top-1", "SNR, dB", "cosine", "type", "shape", "elements"];
    const whys = found.filter((one) => one.why && !reason?.includes(one.why)).map((one) => paragraph(`${one.output}, batch ${one.batch}: ${one.why}`, "muted"));
    return [tabled(heads, rows, "Outputs against the framework's own"), whys];
  };

  // What an artifact of integers is judged by, beside which the differences above decide nothing.
  const heldOut = (found) => {
    if (!found) return null;
    const points = (found.framework - found.accuracy) * 100;
    return pairs([["this artifact", percent(found.accuracy)], ["the framework in single precision", percent(found.framework)],
      ["difference", `${points > 0 ? "\u2212" : "+"}${number(Math.abs(points))} points, of which it may lose ${number(found.allowed * 100)}`],
      ["held-out rows", count(found.rows)]]);
  };

  const latency = (found) => {
    if (!found) return null;
    const rows = found.timings.map((one) => [one.batch, one.threads, seconds(one.p50), seconds(one.p90), seconds(one.p99),
      seconds(one.baseline_p50), number(one.ratio), typeof one.low === "number" ? `${number(one.low)} to ${number(one.high)}` : "",
      count(one.samples), one.inner]);
    const heads = ["batch", "threads", "p50", "p90", "p99", "baseline p50", "ratio", "95% interval", "samples", "calls a sample"];
    const remarks = [
      found.unstable ? "Unstable: the machine's own speed changed by more than a tenth meanwhile." : "",
      found.emulated ? "Emulated: compare these times with no others." : "",
    ];
    const baseline = found.baseline ? cells.find(found.baseline) : -1;
    return [
      tabled(heads, rows, "Latency"),
      remarks.map((text) => paragraph(text)),
      el("p", { class: "said muted" }, "Baseline: ", baseline >= 0 ? cellLink(baseline) : found.baseline || "none"),
      pairs([["load", seconds(found.load_seconds)], ["first call", seconds(found.first_seconds)],
        ["memory above idle", typeof found.peak_mb === "number" ? `${number(found.peak_mb)} MiB` : ""],
        ["artifact", bytes(found.artifact_bytes)], ["installed", bytes(found.installed_bytes)],
        ...Object.entries(found.host ?? {})]),
    ];
  };

  const lookup = (found) => (found ? pairs([
    ["asked for", found.asked], ["found", found.found], ["not published", found.missing], ["newest that is", found.newest],
    ["runs from", found.floor], ["lacks", found.lacking], ["not checked", found.unchecked], ["answered on", found.date],
  ]) : null);

  // --- What to do -------------------------------------------------------------------------------------------------

  const advice = (told) => {
    if (told.state === "works") return null;
    const target = cells.word("target", at);
    const entry = (item) => el("li", {}, portmatrix.outcome(cells.outcome(item.at)),
      el("span", {}, cellLink(item.at), item.change ? el("span", { class: "muted" }, `: ${item.change}`) : ""));
    const [nearest] = told.works;
    const content = [
      paragraph(nearest ? `The smallest change that would deploy it here, by the records: ${nearest.change}.`
        : "No change is known that would deploy it here.", "lead"),
    ];
    if (told.works.length) content.push(el("h3", {}, `Works on ${target}, the nearest first`), more(told.works, entry));
    if (told.untried.length) content.push(el("h3", {}, "Nothing is known of"), more(told.untried, entry));
    if (told.elsewhere.length) {
      content.push(el("h3", {}, "Works on other targets"), more(told.elsewhere, (item) => entry({ at: item.at })));
    }
    return content.flat();
  };

  // The cells that differ in one coordinate only, axis by axis.
  const around = () => {
    const lists = new Map(AXES.map((axis) => [axis, []]));
    for (let other = 0; other < cells.size; other += 1) {
      let differing = null;
      let many = false;
      for (const axis of AXES) {
        if (columns[axis][other] === columns[axis][at]) continue;
        if (differing) { many = true; break; }
        differing = axis;
      }
      if (differing && !many) lists.get(differing).push(other);
    }
    return AXES.filter((axis) => lists.get(axis).length).map((axis) => {
      const others = lists.get(axis).sort((one, other) => columns[axis][one] - columns[axis][other]);
      const rest = Object.fromEntries(AXES.filter((name) => name !== axis).map((name) => [name, cells.word(name, at)]));
      return [el("h3", {}, el("a", { href: filtered(rest) }, `Other ${axis}s`)), more(others, (other) => {
        const shown = cells.outcome(other);
        return el("li", {}, el("a", { class: "neighbour", href: cells.address(other) },
          el("span", { class: `o-${shown.name}`, "aria-hidden": "true" }, shown.mark), ` ${cells.word(axis, other)}`,
          el("span", { class: "unseen" }, `: ${shown.word}`)));
      })];
    }).flat(2);
  };

  // --- What changed -----------------------------------------------------------------------------------------------

  const since = (detail, record) => {
    if (place.dataset.base !== "yes") return null;
    const base = detail.base;
    if (!base) return paragraph("The base has no record of this cell.");
    const now = cells.outcome(at);
    const [, mark, word] = cells.outcomes.find(([name]) => name === base.outcome) ?? ["", "", base.outcome];
    const ended = (shown, text, stage) => el("span", { class: `o-${shown}` }, `${text}${stage ? ` at ${stage}` : ""}`);
    const rows = [
      ["outcome", ended(base.outcome, `${mark} ${word}`, base.stage), ended(now.name, `${now.mark} ${now.word}`, record.stage)],
      ["reason", base.reason ?? "", record.reason ?? ""],
      ["started", base.started ?? "", record.started],
      ["run", base.run ?? "", record.run],
      ...(base.accuracy ? [["accuracy", percent(base.accuracy[0]), percent(base.accuracy[1])]] : []),
      ...(base.outputs ?? []).flatMap(([output, batch, label, wasAbs, isAbs, wasDb, isDb]) => [
        [`${output}, batch ${batch}: ${label}`, `max. difference ${number(wasAbs)}, SNR ${number(wasDb)} dB`, `${number(isAbs)}, ${number(isDb)} dB`]]),
      ...(base.sizes ?? []).map(([what, before, after]) => [`${what} size`, bytes(before), bytes(after)]),
      ...(base.environment ?? []),
    ];
    const [label, why] = base.latency ?? [];
    return [
      base.standing ? paragraph(`Outcome: ${base.standing}.${label ? ` Latency: ${label}${why ? `, ${why}` : ""}.` : ""}`, "lead") : null,
      tabled(["what", "base", "now"], rows.filter(([, was, is]) => was !== "" || is !== ""), "Base and now"),
    ];
  };

  // --- The page ---------------------------------------------------------------------------------------------------

  const show = (detail) => {
    const { record } = detail;
    const id = cells.id(at);
    const told = portmatrix.advise(cells, at);
    rerun = command(`portmatrix repro ${quoted(id)}`);
    const facts = Object.entries(record.facts ?? {});
    place.replaceChildren(
      head(record),
      ...[paragraph(record.reason, "reason"), foretold(detail, record), paragraph(detail.blamed && `Blame: ${detail.blamed}`)].flat().filter(Boolean),
      rerun,
      el("div", { class: "columns" },
        el("div", {},
          section("What would work", advice(told)),
          section("Outputs against the framework's own", outputs(record.comparisons, record.reason)),
          section("Accuracy on held-out rows", heldOut(record.held_out)),
          section("Latency", latency(record.latency)),
          section("History", detail.history ? portmatrix.timeline(cells, detail.history) : null),
          section("Since the base", since(detail, record)),
          section("Looked up, nothing was run", lookup(record.lookup)),
          section("End of the log", record.log_tail ? el("pre", { tabindex: 0, role: "region", "aria-label": "End of the log" }, record.log_tail) : null)),
        el("div", {},
          section("Neighbours", around()),
          section("Facts", pairs([["accuracy", percent(record.accuracy)], ...facts])),
          section("Environment", pairs(Object.entries(record.environment ?? {}))),
          section("Seconds", pairs(Object.entries(record.seconds ?? {}).map(([stage, value]) => [stage, seconds(value)]))),
          section("Record", pairs([["started", record.started], ["measured", record.measured], ["run", record.run], ["engine", record.engine],
            ["bundle", record.bundle], ["recipe", record.recipe]])))));
  };

  const unknown = (id) => {
    title.textContent = id ? "No such cell" : "No cell named";
    crumbs.replaceChildren(el("a", { href: "matrix.html" }, "Matrix"));
    place.replaceChildren(el("p", { class: "said" }, id ? `This report has no cell ${id}.` : "The address names no cell."),
      el("p", {}, el("a", { href: "matrix.html" }, "All cells")));
  };

  let last = 0;
  const fromAddress = async () => {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { /* no escape: then it is what it says */ }
    at = cells.find(id);
    last += 1;
    const mine = last;
    if (at < 0) {
      unknown(id);
      return;
    }
    document.title = `${id} · ${document.title.split(" · ").at(-1)}`;
    title.textContent = id;
    crumbs.replaceChildren(el("a", { href: filtered({ cell: id }) }, "Matrix"), ...AXES.map((axis) =>
      [" / ", el("a", { href: filtered({ [axis]: cells.word(axis, at) }), title: `all cells of this ${axis}` }, cells.word(axis, at))]).flat());
    const detail = await cells.details(at);
    if (mine === last) show(detail);
  };

  const step = (by) => () => {
    if (at < 0 || at + by < 0 || at + by >= cells.size) return;
    location.href = cells.address(at + by);
  };
  const { keys } = portmatrix;
  keys("j  →", "next cell, in the order of urgency", ["j", "ArrowRight"], step(1));
  keys("k  ←", "cell before", ["k", "ArrowLeft"], step(-1));
  keys("c", "copy the command", ["c"], () => rerun?.copy());
  keys("m", "back to the matrix", ["m"], () => { location.href = filtered(at < 0 ? {} : { cell: cells.id(at) }); });
  addEventListener("hashchange", () => fromAddress().then(() => { scrollTo(0, 0); title.focus({ preventScroll: true }); }, failed));
  const failed = (error) => { place.replaceChildren(el("p", { class: "said" }, error.message)); };
  return fromAddress().catch(failed);
}).catch((error) => {
  document.getElementById("cell").textContent = error.message;
  throw error;
});
