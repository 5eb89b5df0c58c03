"use strict";

// The page comes with its figures in it. This keeps them new: each event names what has changed, and no more.

const SILENCE = 45_000;
const LONGEST_PAUSE = 15_000;

const byId = (id) => document.getElementById(id);
const connection = byId("connection");

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Whatever is written as it was is not written: who has selected it, or listens to it, is not disturbed.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const CLOCK = { hour: "2-digit", minute: "2-digit" };
const SECONDS = { ...CLOCK, second: "2-digit" };
const DAY = { day: "numeric", month: "long", ...CLOCK };

function timeOf(at, form) {
  const element = make("time");
  const moment = new Date(at === null ? NaN : at * 1000);
  if (!Number.isNaN(moment.getTime())) {
    element.dateTime = moment.toISOString();
    element.textContent = moment.toLocaleString([], form);
  }
  return element;
}

// Puts children in an order, and moves none that stands right: what has the focus keeps it.
function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) {
    if (!wanted.has(child)) child.remove();
  }
  children.forEach((child, number) => {
    if (parent.children[number] !== child) parent.insertBefore(child, parent.children[number] ?? null);
  });
}

// One element for each item, made once and filled anew where the item has changed.
function keep(parent, items, keyOf, makeOne, fill) {
  const known = (parent.known ??= new Map());
  const kept = new Map();
  for (const item of items) {
    let key = keyOf(item);
    while (kept.has(key)) key += "\n";
    const text = JSON.stringify(item);
    const entry = known.get(key) ?? { element: makeOne(item) };
    if (entry.text !== text) fill(entry.element, item);
    entry.text = text;
    kept.set(key, entry);
  }
  parent.known = kept;
  arrange(parent, [...kept.values()].map((entry) => entry.element));
  const empty = parent.closest("section")?.querySelector(".empty");
  if (empty) empty.hidden = items.length > 0;
}

function named(row) {
  const name = make("span", "name", row.name), state = make("span", `state ${row.state}`, row.note);
  const why = make("span", "why", row.why);
  if (row.until !== null) state.append(" ", timeOf(row.until, SECONDS));
  name.dir = why.dir = "auto";
  return [name, " ", state, " ", why];
}

const NOTHING = ["0", "0/s", "–"];

function makeRow(labels) {
  const row = make("tr");
  row.setAttribute("role", "row");
  const head = make("th");
  head.scope = "row";
  head.setAttribute("role", "rowheader");
  row.append(head);
  for (const label of labels) {
    const cell = make("td");
    cell.setAttribute("role", "cell");
    cell.dataset.label = label;
    cell.append(make("span"), " ", make("small"));
    row.append(cell);
  }
  return row;
}

function fillRow(element, row) {
  element.cells[0].replaceChildren(...named(row));
  row.cells.forEach(([figure, beside], number) => {
    const cell = element.cells[number + 1];
    cell.className = NOTHING.includes(figure) ? "none" : "";
    write(cell.firstChild, figure);
    write(cell.lastChild, beside);
  });
}

function showRows(id, rows) {
  const table = byId(id);
  const labels = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent);
  keep(table.tBodies[0], rows, (row) => row.name, () => makeRow(labels), fillRow);
}

function makePicture(picture) {
  const item = make("li"), prompt = make("span", "prompt", picture.prompt), by = make("span", "by");
  const caller = make("span", "", picture.caller);
  prompt.dir = caller.dir = "auto";
  by.append(caller, " · ", timeOf(picture.at, CLOCK));
  if (!picture.url) {
    item.append(make("span", "gone", "not here"), prompt, by);
    return item;
  }
  const link = make("a"), image = make("img");
  image.alt = "";
  image.loading = "lazy";
  image.decoding = "async";
  link.href = image.src = picture.url;
  link.title = picture.model;
  link.append(image, prompt);
  item.append(link, by);
  return item;
}

const shownPlots = {};

function showPlots(plots) {
  for (const [name, text] of Object.entries(plots)) {
    if (shownPlots[name] === text) continue;
    shownPlots[name] = text;
    const plot = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
    byId(`${name}-plot`).replaceChildren(document.importNode(plot, true));
  }
}

const SHOW = {
  headline(text) {
    write(byId("headline"), text);
    document.title = `${text} · imagen_async`;
  },
  made: (text) => write(byId("made"), text),
  others: (text) => write(byId("others"), text),
  since: (at) => byId("since").replaceChildren(timeOf(at, DAY)),
  quiet(at) {
    byId("quiet").hidden = at === null;
    byId("quiet-since").replaceChildren(...(at === null ? [] : [timeOf(at, CLOCK)]));
  },
  said: (text) => write(byId("said"), text),
  troubles(rows) {
    keep(byId("troubles"), rows, (row) => row.name, () => make("li"), (item, row) => item.replaceChildren(...named(row)));
  },
  accounts: (rows) => showRows("accounts", rows),
  callers: (rows) => showRows("callers", rows),
  unseen: (text) => write(byId("beyond"), text),
  pictures(pictures) {
    keep(byId("pictures"), pictures, (picture) => `${picture.at} ${picture.url}`, makePicture, () => {});
  },
  plots: showPlots,
};

function show(view) {
  for (const [name, value] of Object.entries(view)) SHOW[name]?.(value);
}

// An event that cannot be shown is no reason to hear no more of them.
function showWhatCanBe(text) {
  try {
    show(JSON.parse(text));
  } catch (error) {
    console.error(error);
  }
}

// A picture whose time is over, or which was taken away.
document.addEventListener("error", (event) => {
  if (event.target.tagName === "IMG") event.target.replaceWith(make("span", "gone", "not here"));
}, true);

let heardAt = null;
let going = null;

function say(name, text) {
  connection.className = name;
  write(connection, text);
}

function sayLost(status) {
  if (document.hidden) return;
  const from = heardAt === null ? "" : ` What you see is from ${new Date(heardAt).toLocaleTimeString([], SECONDS)}.`;
  if (status === 503) say("lost", `The server has no room for one more page, or is ending; trying again.${from}`);
  else if (status === 401 || status === 403) say("lost", `The server wants its key: load the page again.${from}`);
  else say("lost", `The connection is lost; trying again.${from}`);
}

// Reads events for as long as they come. A stream that says nothing at all, not even that there is nothing, is dead.
async function listen() {
  going = new AbortController();
  const { signal } = going;
  let watch = setTimeout(() => going.abort(), SILENCE);
  try {
    const answer = await fetch("events", { signal, cache: "no-store", headers: { Accept: "text/event-stream" } });
    if (!answer.ok) return answer.status;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = "";;) {
      const { value, done } = await reader.read();
      if (done) return 0;
      clearTimeout(watch);
      watch = setTimeout(() => going.abort(), SILENCE);
      heardAt = Date.now();
      pause = 0;
      say("live", "Live");
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        if (event.startsWith("data: ")) showWhatCanBe(event.slice(6));
      }
    }
  } finally {
    clearTimeout(watch);
  }
}

let pause = 0;
let wake = () => {};

async function stay() {
  for (;;) {
    const status = await listen().catch(() => 0);
    sayLost(status);
    pause = status ? LONGEST_PAUSE : Math.min(pause ? 2 * pause : 1000, LONGEST_PAUSE);
    await new Promise((resolve) => {
      wake = resolve;
      // A page that nobody sees takes no place; it goes on when it is seen.
      setTimeout(() => document.hidden || resolve(), pause);
    });
  }
}

document.addEventListener("visibilitychange", () => (document.hidden ? going.abort() : wake()));
addEventListener("pageshow", () => wake());
addEventListener("online", () => wake());

for (const element of document.querySelectorAll("time")) {
  const form = element.closest("#since") ? DAY : element.closest(".by, #quiet") ? CLOCK : SECONDS;
  element.textContent = new Date(element.dateTime).toLocaleString([], form);
}
say("", "Connecting…");
stay();
