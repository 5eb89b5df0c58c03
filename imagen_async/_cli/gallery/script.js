"use strict";

// Only the cards that can be seen are in the page: ten thousand pictures cost as little as fifty.
const CARD_WIDTH = 230, CAPTION = 92, GAP = 12, SPARE_ROWS = 2;

const byId = (id) => document.getElementById(id);
const grid = byId("grid"), viewer = byId("viewer"), stage = byId("stage");
const cards = JSON.parse(byId("data").textContent);
// What is asked for beside the prompt, in the words that people read.
const labels = JSON.parse(grid.dataset.labels);
const shown = new Map();
let found = cards, columns = 1, width = CARD_WIDTH, open = -1;

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const largest = (field) => (a, b) => (b[field] ?? -1) - (a[field] ?? -1);
const SORTS = {
  "order of the input": (a, b) => a.index - b.index,
  "newest first": largest("ended_at"),
  "prompt": (a, b) => collator.compare(a.prompt, b.prompt),
  "slowest first": largest("latency"),
  "dearest first": largest("credits"),
  "largest first": largest("bytes"),
};

for (const card of cards) {
  card.text = [card.prompt, card.negative_prompt, card.reason, ...Object.values(card.columns)].join("\n").toLowerCase();
  // Found by the whole of them only: a part of one is in many.
  card.names = [card.key, card.task_id, card.name].map((name) => String(name).toLowerCase());
}

function fill(select, choices) {
  for (const [value, label] of choices) {
    select.append(new Option(label, value));
  }
}

function choices(field) {
  const counts = new Map();
  for (const card of cards) counts.set(card[field], (counts.get(card[field]) ?? 0) + 1);
  const values = [...counts].sort((a, b) => collator.compare(a[0], b[0]));
  return [["", `all (${cards.length})`], ...values.map(([value, count]) => [value, `${value || "none"} (${count})`])];
}

function choose() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = ["model", "provider", "state"].map((field) => [field, byId(field)]);
  found = cards.filter((card) =>
    wanted.every(([field, select]) => select.selectedIndex < 1 || card[field] === select.value)
    && words.every((word) => card.text.includes(word) || card.names.includes(word)));
  found.sort(SORTS[byId("sort").value]);
  byId("count").textContent = `${found.length.toLocaleString()} of ${cards.length.toLocaleString()}`;
  for (const element of shown.values()) element.remove();
  shown.clear();
  layOut();
}

function layOut() {
  const room = grid.clientWidth;
  columns = Math.max(1, Math.floor((room + GAP) / (CARD_WIDTH + GAP)));
  width = Math.floor((room - GAP * (columns - 1)) / columns);
  grid.style.height = `${Math.ceil(found.length / columns) * rowHeight()}px`;
  for (const [number, element] of shown) place(element, number);
  draw();
}

const rowHeight = () => width + CAPTION + GAP;

function place(element, number) {
  const row = Math.floor(number / columns), column = number % columns;
  element.style.width = `${width}px`;
  element.style.height = `${width + CAPTION}px`;
  element.style.transform = `translate(${column * (width + GAP)}px, ${row * rowHeight()}px)`;
}

function draw() {
  const top = -grid.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / rowHeight()) - SPARE_ROWS) * columns;
  const end = Math.min(found.length, (Math.ceil((top + innerHeight) / rowHeight()) + SPARE_ROWS) * columns);
  for (const [number, element] of shown) {
    if (number < first || number >= end) {
      element.remove();
      shown.delete(number);
    }
  }
  let before = null;
  for (let number = end - 1; number >= first; number--) {
    let element = shown.get(number);
    if (!element) {
      element = cardOf(found[number], number);
      place(element, number);
      // In the order of the numbers: the Tab key goes from card to card.
      grid.insertBefore(element, before);
      shown.set(number, element);
    }
    before = element;
  }
}

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  // Each text for itself, in the direction of its own letters.
  if (text !== undefined) [element.textContent, element.dir] = [text, "auto"];
  return element;
}

function cardOf(card, number) {
  const element = make("div", "cell"), button = make("button", card.file ? "card" : "card bad");
  element.setAttribute("role", "listitem");
  element.setAttribute("aria-setsize", found.length);
  element.setAttribute("aria-posinset", number + 1);
  button.type = "button";
  button.dataset.number = number;
  element.append(button);
  button.append(card.file ? pictureOf(card, "thumb", "lazy") : make("div", "thumb", card.reason));
  const caption = make("div", "caption");
  caption.append(
    make("div", "words", card.prompt),
    make("div", "line", [card.file ? "" : card.state, card.model, card.provider].filter(Boolean).join(" · ")),
    make("div", "line", figuresOf(card).map(inWords).join(" · ")),
  );
  button.title = card.prompt;
  button.append(caption);
  return element;
}

function pictureOf(card, name, loading) {
  if (card.media === "application") return make("p", name, card.text);
  if (card.media !== "image") {
    const player = make(card.media === "audio" ? "audio" : "video", name);
    player.controls = !name;
    player.preload = "metadata";
    player.src = card.file;
    return player;
  }
  const picture = make("img", name);
  picture.loading = loading;
  picture.decoding = "async";
  picture.alt = card.prompt;
  if (card.width) [picture.width, picture.height] = [card.width, card.height];
  picture.src = card.file;
  return picture;
}

function figuresOf(card) {
  return [
    ["size", card.width ? `${card.width}×${card.height}` : null],
    ["seed", card.seed],
    ["credits", card.credits == null ? null : Number(card.credits.toFixed(2))],
    ["latency", card.latency == null ? null : `${card.latency.toFixed(1)} s`],
  ].filter(([, value]) => value != null);
}

const inWords = ([name, value]) => ({ seed: `seed ${value}`, credits: `${value} credits` })[name] ?? value;

function detailsOf(card) {
  const bytes = card.bytes == null ? null : `${(card.bytes / 1e6).toFixed(2)} MB`;
  const ended = card.ended_at == null ? null : new Date(card.ended_at * 1000).toLocaleString();
  return [
    ["state", card.state], ["reason", card.file ? card.reason : null], ["model", card.model],
    ["provider", card.provider], ...labels.map(([field, label]) => [label, card[field]]),
    ...figuresOf(card), ["bytes", bytes], ["ended", ended], ["key", card.key], ["task", card.task_id],
    ["file", card.name], ...Object.entries(card.columns),
  ].filter(([, value]) => value != null && value !== "");
}

function show(number) {
  open = Math.min(Math.max(number, 0), found.length - 1);
  const card = found[open];
  if (!card) return;
  stage.className = "";
  stage.replaceChildren(card.file ? pictureOf(card, "", "eager") : make("p", "", card.reason));
  byId("position").textContent = `${(open + 1).toLocaleString()} of ${found.length.toLocaleString()}`;
  byId("prompt").textContent = card.prompt;
  byId("figures").replaceChildren(...detailsOf(card).flatMap(([name, value]) => [
    make("dt", "", name),
    make("dd", "", typeof value === "object" ? JSON.stringify(value) : String(value)),
  ]));
  const link = card.file ?? card.url;
  byId("original").hidden = !link;
  byId("original").textContent = card.file ? "Open the file" : "Open its link";
  if (link) byId("original").href = link;
  byId("previous").disabled = open === 0;
  byId("next").disabled = open === found.length - 1;
  if (!viewer.open) viewer.showModal();
  // The next one is there before it is asked for.
  if (found[open + 1]?.file) new Image().src = found[open + 1].file;
}

function focus(number) {
  if (number < 0 || number >= found.length) return;
  const top = grid.getBoundingClientRect().top + scrollY + Math.floor(number / columns) * rowHeight();
  const header = document.querySelector("header").offsetHeight;
  if (top < scrollY + header || top + rowHeight() > scrollY + innerHeight) scrollTo(0, top - header - GAP);
  draw();
  shown.get(number)?.firstChild.focus({ preventScroll: true });
}

const MOVES = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns, ArrowDown: () => columns };

grid.addEventListener("click", (event) => {
  const element = event.target.closest(".card");
  if (element) show(Number(element.dataset.number));
});
grid.addEventListener("keydown", (event) => {
  const element = event.target.closest(".card");
  if (!element || !MOVES[event.key]) return;
  event.preventDefault();
  focus(Number(element.dataset.number) + MOVES[event.key]());
});
viewer.addEventListener("keydown", (event) => {
  const to = { ArrowLeft: open - 1, ArrowRight: open + 1, Home: 0, End: found.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show(to);
});
viewer.addEventListener("close", () => {
  stage.replaceChildren();
  focus(open);
});
stage.addEventListener("click", (event) => {
  if (event.target.tagName === "IMG") stage.classList.toggle("whole");
});
// A picture that was moved away, or is none.
document.addEventListener("error", (event) => {
  if (["IMG", "VIDEO", "AUDIO"].includes(event.target.tagName) && event.target.isConnected) {
    event.target.replaceWith(make(event.target.className ? "div" : "p", event.target.className,
      "This file cannot be shown: is it still beside this page?"));
  }
}, true);
byId("previous").addEventListener("click", () => show(open - 1));
byId("next").addEventListener("click", () => show(open + 1));
byId("close").addEventListener("click", () => viewer.close());
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("controls").addEventListener("input", choose);
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = getComputedStyle(root).colorScheme === "dark"
    || (!root.style.colorScheme && matchMedia("(prefers-color-scheme: dark)").matches);
  root.style.colorScheme = isDark ? "light" : "dark";
});
addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
addEventListener("resize", () => requestAnimationFrame(layOut));

for (const field of ["model", "provider", "state"]) fill(byId(field), choices(field));
fill(byId("sort"), Object.keys(SORTS).map((name) => [name, name]));
choose();
