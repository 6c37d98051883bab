"use strict";
// What all pages share: data files, elements, numbers in words, keys. Every text becomes a text node, never markup.
const portmatrix = (() => {
  // --- Data files: scripts, since a page that was opened from a disk can fetch nothing ---------------------------

  const taken = new Map(); // name -> what its file gave, or what awaits it
  const asked = new Map(); // name -> promise of the parsed data

  const legal = (url) => {
    if (/^data\/[a-z]+(-[0-9]+)?\.js$/.test(url)) return url;
    throw new TypeError(`${url} is no data file of this site`);
  };
  // The site's security policy lets scripts come from here only; browsers without this know no such policy.
  const scripts = globalThis.trustedTypes?.createPolicy("portmatrix", { createScriptURL: legal })
    ?? { createScriptURL: legal };

  const take = (name, text) => {
    const waiting = taken.get(name);
    if (typeof waiting === "function") waiting(text);
    else taken.set(name, text);
  };

  const inflate = async (text) => {
    const packed = atob(text);
    const bytes = new Uint8Array(packed.length);
    for (let at = 0; at < packed.length; at += 1) bytes[at] = packed.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return JSON.parse(await new Response(stream).text());
  };

  const given = (name) => new Promise((resolve, reject) => {
    if (taken.has(name)) {
      resolve(taken.get(name));
      return;
    }
    taken.set(name, resolve);
    const script = document.createElement("script");
    script.addEventListener("error", () => reject(new Error(`data/${name}.js cannot be read: is the folder whole?`)));
    script.src = scripts.createScriptURL(`data/${name}.js`);
    document.head.append(script);
  });

  // The parsed content of a data file, which is loaded once.
  const load = (name) => {
    if (!asked.has(name)) asked.set(name, given(name).then(inflate));
    return asked.get(name);
  };

  // --- Elements ---------------------------------------------------------------------------------------------------

  const filled = (made, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : String(value));
    }
    made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  };

  const el = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

  const svg = (tag, attributes = {}, ...children) =>
    filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // A link that leads out of the site: only where it is one, for whatever a record says is a text.
  const outward = (address) => (/^https?:\/\//.test(address)
    ? el("a", { href: address, rel: "noreferrer" }, address) : el("span", {}, address));

  // --- Numbers in words -------------------------------------------------------------------------------------------

  // Three significant digits.
  const number = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return String(value);
    if (value === 0) return "0";
    const exponent = Math.floor(Math.log10(Math.abs(Number(value.toPrecision(3)))));
    if (exponent < -4 || exponent >= 7) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    const rounded = Number(value.toPrecision(3));
    return exponent >= 3 ? rounded.toLocaleString("en-GB") : String(rounded);
  };

  const scaled = (value, units) => {
    if (value === null || value === undefined) return "";
    const [unit, size] = units.find(([, least]) => Math.abs(value) >= least) ?? units.at(-1);
    return `${Number((value / size).toPrecision(3))} ${unit}`;
  };
  const seconds = (value) => scaled(value, [["s", 1], ["ms", 1e-3], ["µs", 1e-6], ["ns", 1e-9]]);
  const bytes = (value) => scaled(value, [["GB", 1e9], ["MB", 1e6], ["kB", 1e3], ["B", 1]]);
  const count = (value) => value.toLocaleString("en-GB");
  const percent = (value) => (value === null || value === undefined ? "" : `${number(100 * value)}%`);

  // --- Keys -------------------------------------------------------------------------------------------------------

  const known = new Map(); // the first name of each -> keys as they are shown, and what they do
  const actions = new Map(); // event.key -> function

  const isTyped = (event) => event.ctrlKey || event.metaKey || event.altKey
    || event.target.closest?.("input, select, textarea, dialog") !== null;

  // Binds keys that no field is typed into; ``shown`` is how the help names them.
  const keys = (shown, does, names, action) => {
    known.set(names[0] ?? shown, [shown, does]);
    for (const name of names) actions.set(name, action);
  };

  let help = null;
  const showHelp = () => {
    const rows = [...known.values()].map(([shown, does]) => el("div", {}, el("dt", {}, el("kbd", {}, shown)), el("dd", {}, does)));
    const close = el("button", { type: "button", autofocus: true }, "Close");
    help?.remove();
    help = el("dialog", { class: "help", "aria-labelledby": "help-title" },
      el("h2", { id: "help-title" }, "Keys"), el("dl", {}, rows), close);
    close.addEventListener("click", () => help.close());
    document.body.append(help);
    help.showModal();
  };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || isTyped(event)) return;
    const action = actions.get(event.key);
    if (action) {
      event.preventDefault();
      action(event);
    }
  });
  keys("?", "show these keys", ["?"], showHelp);
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("keys")?.addEventListener("click", showHelp);
    if (!actions.has("/")) keys("/", "search the cells", ["/"], () => { location.href = "matrix.html#search"; });
  });

  // --- A text to copy ---------------------------------------------------------------------------------------------

  const copy = async (text, code, button) => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };

  // A command with a button beside it; ``copy`` on the result does what the button does.
  const command = (text) => {
    const code = el("code", {}, text);
    const button = el("button", { type: "button" }, "Copy");
    const made = el("div", { class: "command" }, code, button);
    made.copy = () => copy(text, code, button);
    button.addEventListener("click", made.copy);
    return made;
  };

  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`);

  return { take, load, el, svg, outward, number, seconds, bytes, count, percent, keys, command, quoted };
})();
