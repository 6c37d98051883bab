"use strict";
// The list of all cells: filters, order, the rows that are in sight, keys, and the address that brings all of it back.
portmatrix.cells.then((cells) => {
  const { el, count, number, seconds } = portmatrix;
  const { columns, words, size } = cells;
  const form = document.getElementById("filters");
  const search = document.getElementById("search");
  const sorting = document.getElementById("sort");
  const status = document.getElementById("status");
  const grid = document.getElementById("grid");
  const body = document.getElementById("rows");
  const heads = [...grid.querySelectorAll("[role=columnheader]")];
  const chips = [...form.querySelectorAll(".chip")];
  const facets = [...form.querySelectorAll(".facet")];
  const KEYS = ["outcome", ...facets.map((facet) => facet.dataset.key)];
  const NUMBERS = new Set(["needed", "p50", "ratio"]);
  const OVERSCAN = 8;

  const picked = new Map(KEYS.map((key) => [key, new Set()])); // key -> the words that are wanted, none for all
  let order = ""; // a column's key, with - before it for the other direction
  let found = Uint32Array.from({ length: size }, (_, at) => at); // the cells in sight, in their order
  let counts = new Map(); // key -> how many cells each word would show
  let active = -1; // the place in ``found`` of the row that keys move
  let edition = 0; // changes with ``found``: rows of an earlier one are stale

  // --- Which cells ------------------------------------------------------------------------------------------------

  let ids = null; // ids in lower case, made when the first text is looked for
  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

  // Whether an id, and whether each of the reasons, has a word in it; with * in it, a glob over whole ids.
  const matcher = (text) => {
    if (text.includes("*")) {
      const glob = new RegExp(`^${text.split("*").map(escaped).join(".*")}$`, "s");
      return { ofId: (id) => glob.test(id), reasons: null };
    }
    return {
      ofId: (id) => id.includes(text),
      reasons: Uint8Array.from(words.reason, (reason) => Number(reason.toLowerCase().includes(text))),
    };
  };

  const textFilter = (text) => {
    const wanted = text.toLowerCase().split(/\s+/).filter(Boolean).map(matcher);
    if (!wanted.length) return () => true;
    ids ??= Array.from({ length: size }, (_, at) => cells.id(at).toLowerCase());
    return (at) => wanted.every(({ ofId, reasons }) => ofId(ids[at]) || (reasons && reasons[columns.reason[at]] === 1));
  };

  // Fills ``found``, and counts for every filter what its words would show with the other filters as they are.
  const filter = () => {
    const matches = textFilter(search.value);
    const kept = KEYS.map((key) => columns[key]);
    const allowed = KEYS.map((key) => (picked.get(key).size
      ? Uint8Array.from(words[key], (word) => Number(picked.get(key).has(word))) : null));
    const tallies = KEYS.map((key) => new Uint32Array(words[key].length));
    const filtering = KEYS.map((_, number) => number).filter((number) => allowed[number]);
    const result = new Uint32Array(size);
    let length = 0;
    for (let at = 0; at < size; at += 1) {
      if (!matches(at)) continue;
      let missed = -1;
      let misses = 0;
      for (const by of filtering) {
        if (!allowed[by][kept[by][at]]) {
          missed = by;
          misses += 1;
          if (misses > 1) break;
        }
      }
      if (misses === 0) {
        result[length] = at;
        length += 1;
        for (let by = 0; by < kept.length; by += 1) tallies[by][kept[by][at]] += 1;
      } else if (misses === 1) {
        tallies[missed][kept[missed][at]] += 1;
      }
    }
    counts = new Map(KEYS.map((key, by) => [key, tallies[by]]));
    found = sorted(result.subarray(0, length));
    edition += 1;
  };

  // --- In which order ---------------------------------------------------------------------------------------------

  const byCode = (list, codes, backwards) => {
    const starts = new Uint32Array(codes.reduce((most, code) => Math.max(most, code), 0) + 2);
    const place = backwards ? (code) => starts.length - 2 - code : (code) => code;
    for (const at of list) starts[place(codes[at]) + 1] += 1;
    for (let code = 1; code < starts.length; code += 1) starts[code] += starts[code - 1];
    const result = new Uint32Array(list.length);
    for (const at of list) {
      result[starts[place(codes[at])]] = at;
      starts[place(codes[at])] += 1;
    }
    return result;
  };

  // Cells without the number come last in either direction, as do those that no tolerance would do for in theirs.
  const byNumber = (list, values, backwards) => {
    const value = (at) => (values[at] === -1 ? Infinity : values[at]);
    const known = list.filter((at) => !Number.isNaN(values[at]));
    known.sort((one, other) => {
      const [mine, theirs] = [value(one), value(other)];
      if (mine === theirs) return one - other;
      return (mine < theirs) === backwards ? 1 : -1;
    });
    const result = new Uint32Array(list.length);
    result.set(known);
    result.set(list.filter((at) => Number.isNaN(values[at])), known.length);
    return result;
  };

  const sorted = (list) => {
    const key = order.replace(/^-/, "");
    if (!key) return list;
    const sort = NUMBERS.has(key) ? byNumber : byCode;
    return sort(list, key === "reason" ? reasonRanks() : columns[key], order.startsWith("-"));
  };

  let ranks = null;
  const reasonRanks = () => {
    if (!ranks) {
      const places = words.reason.map((_, code) => code).sort((one, other) =>
        (words.reason[one] < words.reason[other] ? -1 : Number(words.reason[one] > words.reason[other])));
      const rank = new Uint32Array(places.length);
      places.forEach((code, place) => { rank[code] = place; });
      ranks = columns.reason.map((code) => rank[code]);
    }
    return ranks;
  };

  // --- Rows in sight ----------------------------------------------------------------------------------------------

  const needed = (at) => {
    const value = columns.needed[at];
    if (value === -1) return "none";
    return Number.isNaN(value) ? "" : `${number(value)}×`;
  };
  const TEXTS = {
    stage: (at) => cells.word("stage", at),
    needed,
    p50: (at) => (Number.isNaN(columns.p50[at]) ? "" : seconds(columns.p50[at])),
    ratio: (at) => (Number.isNaN(columns.ratio[at]) ? ""
      : `${number(columns.ratio[at])}${cells.flag("unstable", at) ? " ~" : ""}${cells.flag("emulated", at) ? " (e)" : ""}`),
    reason: (at) => cells.word("reason", at),
  };
  for (const axis of portmatrix.AXES) TEXTS[axis] = (at) => cells.word(axis, at);
  const named = heads.map((head) => head.dataset.key);

  const newRow = () => {
    const row = el("div", { role: "row", class: "row" }, named.map((key, number) =>
      el("span", { role: "gridcell", "aria-colindex": number + 1, class: `c-${key}` })));
    row.firstChild.append(el("a", { tabindex: -1 }));
    return row;
  };

  const fillRow = (row, place) => {
    const at = found[place];
    const shown = cells.outcome(at);
    row.place = place;
    row.edition = edition;
    row.id = `row-${place}`;
    row.setAttribute("aria-rowindex", place + 2);
    row.style.transform = `translateY(${place * height}px)`;
    const link = row.firstChild.firstChild;
    link.href = cells.address(at);
    link.className = `o-${shown.name}`;
    link.textContent = `${shown.mark} ${shown.word}${cells.remarks(at)}`;
    for (let number = 1; number < named.length; number += 1) {
      const text = TEXTS[named[number]](at);
      const cell = row.children[number];
      if (cell.textContent !== text) cell.textContent = text;
    }
    row.title = cells.id(at);
    row.lastChild.title = TEXTS.reason(at);
  };

  let height = 28;
  let drawn = "";
  const draw = () => {
    const first = Math.max(0, Math.floor(grid.scrollTop / height) - OVERSCAN);
    const last = Math.min(found.length, Math.ceil((grid.scrollTop + grid.clientHeight) / height) + OVERSCAN);
    const now = `${edition} ${first} ${last} ${height} ${active}`;
    if (now === drawn) return;
    drawn = now;
    const there = new Map();
    const free = [];
    for (const row of body.children) {
      if (row.edition === edition && row.place >= first && row.place < last) there.set(row.place, row);
      else free.push(row);
    }
    for (let place = first; place < last; place += 1) {
      let row = there.get(place);
      if (!row) {
        row = free.pop() ?? newRow();
        fillRow(row, place);
      }
      if (body.children[place - first] !== row) body.insertBefore(row, body.children[place - first] ?? null);
      row.setAttribute("aria-selected", place === active);
    }
    while (body.children.length > last - first) body.lastChild.remove();
    if (active >= first && active < last) grid.setAttribute("aria-activedescendant", `row-${active}`);
    else grid.removeAttribute("aria-activedescendant");
  };

  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };

  const fit = () => {
    const probe = newRow();
    probe.style.visibility = "hidden";
    body.append(probe);
    height = probe.getBoundingClientRect().height || height;
    probe.remove();
    body.style.height = `${found.length * height}px`;
    edition += 1;
    draw();
  };

  // --- What else the page says ------------------------------------------------------------------------------------

  const options = (facet) => {
    const { key } = facet.dataset;
    const tally = counts.get(key);
    const list = words[key].map((word, code) => [word, code]).filter(([word]) => word);
    return list.map(([word, code]) => {
      const box = el("input", { type: "checkbox", value: word });
      box.checked = picked.get(key).has(word);
      const made = el("label", { class: tally[code] ? "" : "empty" }, box, el("bdi", {}, word), el("small", {}, count(tally[code])));
      return made;
    });
  };

  const tell = () => {
    const tally = counts.get("outcome");
    for (const chip of chips) {
      const code = words.outcome.indexOf(chip.dataset.value);
      chip.querySelector("b").textContent = count(tally[code]);
      chip.setAttribute("aria-pressed", picked.get("outcome").has(chip.dataset.value));
    }
    for (const facet of facets) {
      const chosen = [...picked.get(facet.dataset.key)];
      facet.classList.toggle("chosen", chosen.length > 0);
      facet.querySelector(".picked").textContent = chosen.length > 1 ? ` ${chosen.length}` : chosen.map((word) => ` ${word}`).join("");
      if (facet.open) refresh(facet);
    }
    for (const head of heads) {
      const mine = order.replace(/^-/, "") === head.dataset.key;
      head.setAttribute("aria-sort", mine ? (order.startsWith("-") ? "descending" : "ascending") : "none");
    }
    sorting.value = order;
    status.textContent = `${count(found.length)} of ${count(size)} cells`;
    grid.setAttribute("aria-rowcount", found.length + 1);
  };

  // New counts beside boxes that stay where they are, for one of them may have the focus.
  const refresh = (facet) => {
    const panel = facet.querySelector(".panel");
    const made = options(facet);
    const old = [...panel.querySelectorAll("label")];
    if (old.length !== made.length) {
      panel.replaceChildren(...made);
      return;
    }
    old.forEach((label, number) => {
      label.className = made[number].className;
      label.querySelector("input").checked = made[number].querySelector("input").checked;
      label.querySelector("small").textContent = made[number].querySelector("small").textContent;
    });
  };

  // --- The address ------------------------------------------------------------------------------------------------

  const toAddress = () => {
    const query = new URLSearchParams();
    for (const key of KEYS) {
      for (const word of picked.get(key)) query.append(key, word);
    }
    if (search.value) query.set("text", search.value);
    if (order) query.set("sort", order);
    if (active >= 0) query.set("cell", cells.id(found[active]));
    const fragment = query.toString();
    if (fragment !== location.hash.slice(1)) history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
  };
  let later = 0;
  const addressSoon = () => {
    clearTimeout(later);
    later = setTimeout(toAddress, 200); // browsers take only so many changes of the address in a row
  };

  const fromAddress = () => {
    const query = new URLSearchParams(location.hash.slice(1));
    for (const key of KEYS) picked.set(key, new Set(query.getAll(key).filter(Boolean)));
    search.value = query.get("text") ?? "";
    order = heads.some((head) => head.dataset.key === (query.get("sort") ?? "").replace(/^-/, "")) ? query.get("sort") : "";
    const wanted = query.get("cell");
    show();
    if (location.hash === "#search") search.focus();
    if (wanted) {
      const place = found.indexOf(cells.find(wanted));
      if (place >= 0) move(place);
    }
  };

  // Shows what the filters say; the row that was chosen stays chosen if it is still there.
  const show = () => {
    const before = active >= 0 ? found[active] : -1;
    filter();
    active = before < 0 ? -1 : found.indexOf(before);
    body.style.height = `${found.length * height}px`;
    if (active < 0) grid.scrollTop = 0;
    else reveal();
    tell();
    draw();
  };
  const changed = () => { show(); addressSoon(); };

  // --- Moving about -----------------------------------------------------------------------------------------------

  const reveal = () => {
    const head = grid.querySelector(".heads").offsetHeight;
    const top = active * height;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + height > grid.scrollTop + grid.clientHeight - head) {
      grid.scrollTop = top + height - grid.clientHeight + head;
    }
  };
  const move = (place) => {
    if (!found.length) return;
    active = Math.min(found.length - 1, Math.max(0, place));
    reveal();
    draw();
    addressSoon();
  };
  const open = () => {
    if (active < 0) return;
    toAddress();
    location.href = cells.address(found[active]);
  };
  const step = (by) => () => { grid.focus({ preventScroll: true }); move(active < 0 && by < 0 ? 0 : active + by); };

  const { keys } = portmatrix;
  keys("j  ↓", "next cell", ["j"], step(1));
  keys("k  ↑", "cell before", ["k"], step(-1));
  keys("Enter", "open the cell", [], null);
  keys("/", "search", ["/"], () => { search.focus(); search.select(); });
  keys("x", "clear all filters", ["x"], () => form.reset());
  grid.addEventListener("keydown", (event) => {
    if (event.target !== grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(grid.clientHeight / height) - 2);
    const moves = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: found.length - 1 };
    if (event.key in moves) move(moves[event.key]);
    else if (event.key === "Enter") open();
    else return;
    event.preventDefault();
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("[role=row]");
    if (!row) return;
    move(row.place);
    toAddress();
    if (event.target.closest("a") || getSelection().toString() || event.ctrlKey || event.metaKey) return;
    open();
  });

  // --- Filters ----------------------------------------------------------------------------------------------------

  const toggle = (key, word) => {
    const wanted = picked.get(key);
    if (!wanted.delete(word)) wanted.add(word);
    changed();
  };
  for (const chip of chips) chip.addEventListener("click", () => toggle("outcome", chip.dataset.value));
  for (const facet of facets) {
    facet.addEventListener("toggle", () => {
      if (!facet.open) return;
      for (const other of facets) other.open = other === facet;
      refresh(facet);
      const panel = facet.querySelector(".panel");
      panel.classList.remove("leftward");
      panel.classList.toggle("leftward", panel.getBoundingClientRect().right > document.documentElement.clientWidth);
    });
    facet.addEventListener("change", (event) => toggle(facet.dataset.key, event.target.value));
    facet.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      facet.open = false;
      facet.querySelector("summary").focus();
    });
  }
  document.addEventListener("click", (event) => {
    for (const facet of facets) if (!facet.contains(event.target)) facet.open = false;
  });
  for (const head of heads) {
    head.firstChild.addEventListener("click", () => {
      const { key } = head.dataset;
      order = order === key ? `-${key}` : order === `-${key}` ? "" : key;
      changed();
    });
  }
  sorting.addEventListener("change", () => { order = sorting.value; changed(); });
  search.addEventListener("input", changed);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "ArrowDown" || event.key === "Escape") {
      event.preventDefault();
      step(0)();
      if (event.key === "Enter" && active >= 0 && found.length === 1) open();
    }
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => {
    for (const wanted of picked.values()) wanted.clear();
    order = "";
    changed();
  }));
  grid.addEventListener("scroll", soon, { passive: true });
  new ResizeObserver(() => { fit(); }).observe(grid);
  addEventListener("hashchange", fromAddress);

  // What is counted gets less by filtering: nothing may move when it does.
  for (const chip of chips) {
    const number_ = chip.querySelector("b");
    number_.style.minWidth = `${number_.getBoundingClientRect().width}px`;
  }
  const empty = (key) => columns[key].every(Number.isNaN);
  grid.classList.toggle("unmeasured", empty("p50") && empty("ratio"));
  fit();
  fromAddress();
}).catch((error) => {
  document.getElementById("status").textContent = error.message;
  throw error;
});
