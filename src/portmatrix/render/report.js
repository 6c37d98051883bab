"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const status = document.getElementById("status");
  const more = document.getElementById("more");
  const ID = ["framework", "model", "path", "runtime", "target"];
  const KEYS = ["outcome", "stage", "reach", ...ID];
  const PAGE = 300;
  let found = [];
  let shown = 0;

  // Every string of the data becomes a text node; nothing is ever parsed as HTML.
  const element = (tag, className, ...children) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children.filter((child) => child !== null));
    return made;
  };

  for (const cell of data.cells) {
    cell.stage ??= "";
    cell.id = ID.map((key) => cell[key]).join("/");
    cell.haystack = `${cell.id} ${cell.outcome} ${cell.reason ?? ""}`.toLowerCase();
  }

  for (const key of KEYS) {
    const present = new Set(data.cells.map((cell) => cell[key]).filter(Boolean));
    const known = { outcome: Object.keys(data.outcomes), stage: data.stages, reach: Object.keys(data.reaches) };
    const order = known[key] ?? [...present].sort();
    for (const value of order) {
      if (present.has(value)) form.elements[key].append(new Option(value, value));
    }
  }

  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`);

  const copy = async (text, button, code) => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };

  const command = (cell) => {
    const text = `portmatrix repro ${quoted(cell.id)}`;
    const code = element("code", "", text);
    const button = element("button", "", "Copy");
    button.type = "button";
    button.addEventListener("click", () => copy(text, button, code));
    return element("div", "command", code, button);
  };

  const pairs = (title, entries) => {
    const kept = Object.entries(entries).filter(([, value]) => value !== "" && value !== undefined);
    if (!kept.length) return [];
    const terms = kept.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", String(value))]);
    return [element("h3", "", title), element("dl", "", ...terms)];
  };

  const comparisons = (rows) => {
    if (!rows) return [];
    const names = Object.keys(rows[0]).filter((name) => rows.some((row) => row[name] !== ""));
    const head = element("tr", "", ...names.map((name) => element("th", "", name)));
    const lines = rows.map((row) => element("tr", "", ...names.map((name) => element("td", "", row[name]))));
    const table = element("table", "", element("thead", "", head), element("tbody", "", ...lines));
    const scroll = element("div", "scroll", table);
    scroll.tabIndex = 0;
    return [element("h3", "", "Outputs against the framework's own"), scroll];
  };

  const log = (text) => {
    if (!text) return [];
    return [element("details", "", element("summary", "", "End of the log"), element("pre", "", text))];
  };

  const body = (cell) => element("div", "body",
    ...(cell.reason ? [element("p", "", cell.reason)] : []),
    ...(cell.expected ? [element("p", "", `Expected by matrix.yaml: ${cell.expected}`)] : []),
    ...(cell.blame ? [element("p", "", `Blame: ${cell.blame.party}, by ${cell.blame.referee}. ${cell.blame.why}`)] : []),
    command(cell),
    ...comparisons(cell.comparisons),
    ...pairs("Looked up, nothing was run", cell.lookup ?? {}),
    ...pairs("Cell", {
      outcome: cell.recorded, reach: cell.reach, accuracy: cell.accuracy, archived: cell.archived ? "from an archived bundle" : "",
      reused: cell.reused ? `nothing has changed since ${cell.measured ?? "an earlier run"}` : "", started: cell.started, run: cell.run, bundle: cell.bundle,
    }),
    ...pairs("Seconds", cell.seconds ?? {}),
    ...pairs("Facts", cell.facts ?? {}),
    ...pairs("Environment", data.environments[cell.environment] ?? {}),
    ...log(cell.log));

  const row = (cell) => {
    const { mark } = data.outcomes[cell.outcome];
    const letter = data.reaches[cell.reach] ?? "";
    const marks = `${letter ? ` (${letter})` : ""}${cell.archived ? " †" : ""}`;
    const made = element("details", "cell",
      element("summary", "",
        element("span", `outcome o-${cell.outcome}`, `${mark} ${cell.outcome}`),
        element("span", "id", cell.id + marks),
        element("span", "stage", cell.stage),
        element("span", "reason", (cell.reason ?? "").slice(0, 300)),
        element("span", "worst", cell.worst ?? "")));
    made.lastChild.lastChild.title = "largest absolute difference";
    made.addEventListener("toggle", () => {
      if (made.open && made.children.length === 1) made.append(body(cell));
    });
    return made;
  };

  const grow = () => {
    list.append(...found.slice(shown, shown + PAGE).map(row));
    shown = Math.min(found.length, shown + PAGE);
    more.hidden = shown === found.length;
    more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more of ${found.length - shown}`;
  };

  const show = () => {
    const wanted = KEYS.map((key) => [key, form.elements[key].value]).filter(([, value]) => value);
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = data.cells.filter((cell) =>
      wanted.every(([key, value]) => cell[key] === value) && words.every((word) => cell.haystack.includes(word)));
    const counts = Object.keys(data.outcomes)
      .map((outcome) => [outcome, found.filter((cell) => cell.outcome === outcome).length])
      .filter(([, count]) => count).map(([outcome, count]) => `${count} ${outcome}`);
    status.textContent = `${found.length} of ${data.cells.length} cells${counts.length ? ": " : ""}${counts.join(", ")}`;
    shown = 0;
    list.replaceChildren();
    grow();
  };

  const fromHash = () => {
    const query = new URLSearchParams(location.hash.slice(1));
    if (![...KEYS, "text"].some((key) => query.has(key))) return false;
    for (const key of [...KEYS, "text"]) form.elements[key].value = query.get(key) ?? "";
    return true;
  };

  const toHash = () => {
    const query = new URLSearchParams();
    for (const key of [...KEYS, "text"]) {
      if (form.elements[key].value) query.set(key, form.elements[key].value);
    }
    history.replaceState(null, "", `#${query}`);
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { toHash(); show(); });
  form.addEventListener("reset", () => setTimeout(() => { toHash(); show(); }));
  more.addEventListener("click", grow);
  addEventListener("hashchange", () => {
    if (!fromHash()) return;
    show();
    document.getElementById("cells").scrollIntoView();
  });
  if (fromHash()) document.getElementById("cells").scrollIntoView();
  show();
})();
