// The page of `kubectl usb ui`: draws what /events tells, and asks /do for what somebody clicks.
// Text from devices and from the cluster is set as text, never as markup; the policy of the page forbids the other way.
"use strict";

const STATES = { attached: "attached", waiting: "waiting", failed: "held up", unplugged: "unplugged", off: "machine is off", idle: "not used", free: "not assigned" };
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

const page = { view: null, key: null, want: new Set(), open: null, said: null, busy: false, armed: null };

// --- Elements ---------------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Elements by key: one that shows the same as before stays as it is.
function keep(parent, kind, items, key, build) {
  const old = (parent.kept ??= new Map());
  const kept = new Map();
  for (const item of items) {
    const name = `${kind} ${key(item)}`;
    const json = JSON.stringify(item);
    const before = old.get(name);
    const element = before?.json === json ? before.element : build(item, name);
    element.dataset.key ??= name;
    kept.set(name, { json, element });
  }
  parent.kept = kept;
  const wanted = [...kept.values()].map((one) => one.element);
  if (wanted.length !== parent.children.length || wanted.some((element, n) => parent.children[n] !== element)) {
    parent.replaceChildren(...wanted);
  }
}

function byKey(key) {
  return document.querySelector(`[data-key="${CSS.escape(key)}"]`);
}

const deviceKey = (name) => `device ${name}`;
const machineKey = (it) => `machine ${it.kind}/${it.namespace}/${it.machine ?? it.name}`;
const cableKey = (cable) => `${cable.device} ${machineKey(cable)}`;
const where = (device) => (device.node ? `port ${device.port} of ${device.node}` : "nobody knows where");
const count = (n, one, more) => `${n} ${n === 1 ? one : more}`;

// --- What is shown ------------------------------------------------------------------------------------------------------

function shown(picture) {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const ends = new Map(picture.devices.map((device) => [device.name, []]));
  for (const cable of picture.cables) ends.get(cable.device)?.push(cable);
  const fits = (...texts) => words.every((word) => texts.some((text) => text?.toLowerCase().includes(word)));
  const devices = picture.devices.filter((device) => {
    const facts = device.facts.map(([, fact]) => fact);
    const machines = ends.get(device.name).map((cable) => cable.machine);
    const wanted = page.want.size === 0 || page.want.has(device.state);
    return wanted && fits(device.name, device.product, device.node, device.namespace, device.port, ...facts, ...machines);
  });
  const names = new Set(devices.map((device) => device.name));
  const cables = picture.cables.filter((cable) => names.has(cable.device));
  const reached = new Set(cables.map(machineKey));
  const filtered = words.length > 0 || page.want.size > 0;
  const alone = (texts) => page.want.size === 0 && words.length > 0 && fits(...texts);
  const machines = picture.machines.filter((it) => !filtered || reached.has(machineKey(it)) || alone([it.name, it.namespace, it.node]));
  const homes = new Set(devices.map((device) => device.node));
  const nodes = picture.nodes.filter((node) => !filtered || homes.has(node.name) || alone([node.name]));
  return { nodes, devices, machines, cables };
}

function render() {
  const picture = page.view?.picture;
  if (!picture) return;
  const focus = document.activeElement?.dataset?.key;
  const { nodes, devices, machines, cables } = shown(picture);
  $("scope").textContent = picture.only ? `namespace ${picture.only}` : count(picture.nodes.length, "node", "nodes");
  counts(picture);
  const by = (list, key) => list.reduce((map, it) => map.set(key(it), [...(map.get(key(it)) ?? []), it]), new Map());
  const homes = by(devices, (device) => device.node);
  const lost = homes.get(null) ? [{ name: "", good: true, says: "nobody knows where", ports: [] }] : [];
  keep($("nodes"), "node", [...nodes, ...lost], (node) => node.name, buildNode);
  for (const card of $("nodes").children) {
    const list = card.lastElementChild;
    const name = card.dataset.key.slice("node ".length);
    keep(list, "device", homes.get(name || null) ?? [], (device) => device.name, buildDevice);
  }
  const ends = by(cables, machineKey);
  const height = new Map([...nodes, ...lost].flatMap((node) => homes.get(node.name || null) ?? []).map((device, n) => [device.name, n]));
  const place = (it) => {
    const rows = (ends.get(machineKey(it)) ?? []).map((cable) => height.get(cable.device) ?? 0);
    return rows.length ? rows.reduce((a, b) => a + b) / rows.length : Infinity;
  };
  const ordered = machines.map((it) => ({ ...it, cables: (ends.get(machineKey(it)) ?? []).length, at: place(it) }));
  ordered.sort((a, b) => (a.at === b.at ? 0 : a.at - b.at));
  for (const it of ordered) delete it.at;
  keep($("machines"), "machine", ordered, (it) => `${it.kind}/${it.namespace}/${it.name}`, buildMachine);
  keep($("cables"), "cable", cables, cableKey, buildCable);
  nothing(picture);
  layout();
  if (page.open) panel();
  else if (focus && document.activeElement?.dataset?.key !== focus) byKey(focus)?.focus({ preventScroll: true });
}

function counts(picture) {
  const states = Object.keys(STATES).filter((state) => picture.devices.some((device) => device.state === state) || page.want.has(state));
  const items = states.map((state) => ({ state, n: picture.devices.filter((device) => device.state === state).length, on: page.want.has(state) }));
  keep($("counts"), "count", items, (item) => item.state, ({ state, n, on }) => {
    const toggle = () => {
      page.want.has(state) ? page.want.delete(state) : page.want.add(state);
      render();
    };
    return make("button", { type: "button", "data-state": state, "aria-pressed": String(on), onclick: toggle }, make("b", {}, String(n)), STATES[state]);
  });
}

function buildNode(node) {
  const ports = node.ports.map(({ title, used, all }) => {
    const marks = all > 16 ? [] : [...Array(all).keys()].map((n) => make("i", { class: n < used ? "used" : null }));
    const words = `${used} of ${all} ${title} USB/IP ports in use`;
    const marked = make("span", { "aria-hidden": "true" }, ...marks);
    return make("span", { class: used > 0 && used >= all ? "ports full" : "ports", title: words, "aria-label": words, role: "img" }, title, marked, all > 16 ? `${used}/${all}` : null);
  });
  const head = make("div", { class: "head" }, make("h3", {}, node.name), node.says ? make("p", {}, node.says) : null, ...ports);
  return make("article", { class: node.good ? "node" : "node bad", "aria-label": `Node ${node.name}` }, head, make("div", { class: "devices", role: "group" }));
}

function buildDevice(device, key) {
  const label = `${device.product || device.name}, ${device.name}, ${where(device)}. ${STATES[device.state]}: ${device.why.says}`;
  const chip = device.namespace ? make("span", { class: "chip" }, device.namespace) : make("span", { class: "word" }, STATES.free);
  const words = [make("b", {}, device.product || device.name), make("small", {}, device.name)];
  return item(key, { class: "item device", "data-state": device.state, "aria-label": label }, make("span", { class: "mono" }, device.port), make("span", {}, ...words), chip, make("span", { class: "jack" }));
}

function buildMachine(it, key) {
  const what = it.kind === "pod" ? "Pod" : "Virtual machine";
  const state = it.runs ? "attached" : "off";
  const where = it.node ? `on ${it.node}` : "";
  const word = it.kind === "pod" ? "pod" : it.runs ? "runs" : "does not run";
  const unknown = it.unknown.length ? make("small", { class: "bad" }, `asks for what is not there: ${it.unknown.join(", ")}`) : null;
  const label = `${what} ${it.name} of namespace ${it.namespace}: ${it.says}. ${count(it.cables, "device", "devices")}`;
  const line = make("small", { "data-state": state }, make("span", { class: "word" }, word), ` ${where}`);
  const element = item(key, { class: "item machine", "aria-label": label }, make("h3", {}, it.name), make("span", { class: "chip" }, it.namespace), line, unknown);
  element.style.minHeight = `${Math.max(64, 20 + 16 * it.cables)}px`;
  return element;
}

function item(key, attributes, ...children) {
  const element = make("button", { type: "button", "aria-haspopup": "dialog", ...attributes }, ...children);
  const enter = () => light(key, element);
  for (const [event, act] of [["pointerenter", enter], ["focus", enter], ["pointerleave", dark], ["blur", dark], ["click", () => openPanel(key)]]) {
    element.addEventListener(event, act);
  }
  return element;
}

function buildCable(cable) {
  const group = make("svg:g", { class: "cable", "data-state": cable.state });
  const hit = make("svg:path", { class: "hit" });
  hit.addEventListener("pointermove", (event) => {
    light(cableKey(cable), null);
    tip(cable.state, cable.why.says, event.clientX + 12, event.clientY + 12);
  });
  hit.addEventListener("pointerleave", dark);
  hit.addEventListener("click", () => openPanel(deviceKey(cable.device)));
  group.append(make("svg:path", { class: "edge" }), make("svg:path", { class: "core" }), make("svg:path", { class: "flow" }), make("svg:circle", { r: 5 }), make("svg:circle", { r: 6 }), hit);
  group.cable = cable;
  return group;
}

function nothing(picture) {
  const empty = picture.devices.length === 0;
  $("nothing").hidden = !empty;
  if (!empty) return $("nothing").replaceChildren();
  const [text, ...commands] = picture.nothing.trim().split(/\n {2}/);
  const plug = make("svg:svg", { viewBox: "0 0 120 64", "aria-hidden": "true" }, make("svg:path", { d: "M4 52C44 52 28 20 64 20M64 10h20v20h-20zM84 15h10M84 25h10" }));
  const lines = commands.map((command) => make("code", {}, command));
  $("nothing").replaceChildren(plug, make("h2", {}, "Nothing is plugged in"), make("p", {}, text), ...lines);
}

// --- Where it is drawn --------------------------------------------------------------------------------------------------

function layout() {
  const main = document.querySelector("main");
  const origin = main.getBoundingClientRect();
  const jacks = new Map();
  for (const row of main.querySelectorAll(".device")) {
    const box = row.lastElementChild.getBoundingClientRect();
    jacks.set(row.dataset.key, { x: box.left + box.width / 2 - origin.left, y: box.top + box.height / 2 - origin.top });
  }
  const groups = [...$("cables").children];
  const ends = new Map();
  for (const group of groups) {
    const key = machineKey(group.cable);
    ends.set(key, [...(ends.get(key) ?? []), group]);
  }
  // Each machine is beside its devices, as far as those above it leave room.
  let bottom = 0;
  const top = $("machines").getBoundingClientRect().top - origin.top;
  for (const card of $("machines").children) {
    const rows = (ends.get(card.dataset.key) ?? []).map((group) => jacks.get(deviceKey(group.cable.device))?.y ?? 0);
    const height = card.offsetHeight;
    const wish = rows.length ? rows.reduce((a, b) => a + b) / rows.length - top - height / 2 : 0;
    const at = Math.max(wish, bottom === 0 ? 0 : bottom + 16);
    card.style.marginTop = `${Math.round(at - bottom)}px`;
    bottom = at + height;
  }
  for (const [key, list] of ends) {
    const card = byKey(key);
    if (!card) continue;
    const box = card.getBoundingClientRect();
    list.sort((a, b) => (jacks.get(deviceKey(a.cable.device))?.y ?? 0) - (jacks.get(deviceKey(b.cable.device))?.y ?? 0));
    list.forEach((group, n) => {
      const from = jacks.get(deviceKey(group.cable.device));
      const to = { x: box.left - origin.left, y: box.top - origin.top + (box.height * (n + 1)) / (list.length + 1) };
      if (from) draw(group, from, to);
    });
  }
}

function draw(group, from, to) {
  // A plug that is out hangs beside its jack.
  const out = group.cable.state === "unplugged";
  const start = out ? { x: from.x + 26, y: from.y + 10 } : from;
  const bend = Math.max(48, (to.x - start.x) * 0.5);
  const sag = Math.min(28, 8 + Math.abs(to.y - start.y) * 0.08);
  const path = `M${start.x} ${start.y}C${start.x + bend} ${start.y + sag} ${to.x - bend} ${to.y + sag} ${to.x} ${to.y}`;
  for (const element of group.querySelectorAll("path")) element.setAttribute("d", path);
  const [plug, end] = group.querySelectorAll("circle");
  for (const [circle, { x, y }] of [[plug, start], [end, to]]) {
    circle.setAttribute("cx", x);
    circle.setAttribute("cy", y);
  }
}

// --- What is looked at --------------------------------------------------------------------------------------------------

function light(key, element) {
  const picture = page.view?.picture;
  if (!picture) return;
  const cables = picture.cables.filter((cable) => [deviceKey(cable.device), machineKey(cable), cableKey(cable)].includes(key));
  const lit = new Set(cables.flatMap((cable) => [`cable ${cableKey(cable)}`, deviceKey(cable.device), machineKey(cable)]));
  for (const one of document.querySelectorAll(".item, .cable")) one.classList.toggle("lit", lit.has(one.dataset.key));
  $("cables").classList.toggle("some", cables.length > 0);
  if (!element || page.open) return;
  const device = picture.devices.find((one) => deviceKey(one.name) === key);
  const machine = picture.machines.find((one) => machineKey(one) === key);
  const box = element.getBoundingClientRect();
  const [state, says] = device ? [device.state, device.why.says] : [machine?.runs ? "attached" : "off", machine?.says ?? ""];
  element.setAttribute("aria-describedby", "tip");
  tip(state, says, box.left + 24, box.bottom + 6, device ? null : machine?.name);
}

function dark() {
  for (const one of document.querySelectorAll(".lit")) one.classList.remove("lit");
  $("cables").classList.remove("some");
  $("tip").hidden = true;
}

function tip(state, says, x, y, title) {
  const box = $("tip");
  box.dataset.state = state;
  box.replaceChildren(make("b", {}, title ?? STATES[state]), says);
  box.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = box;
  box.style.left = `${Math.max(8, Math.min(x, innerWidth - width - 8))}px`;
  box.style.top = `${y + height > innerHeight - 8 ? Math.max(8, y - height - 48) : y}px`;
}

// --- What has happened --------------------------------------------------------------------------------------------------

function note(text) {
  const time = new Date().toTimeString().slice(0, 8);
  $("log").append(make("li", {}, make("time", {}, time), text));
  while ($("log").children.length > 20) $("log").firstElementChild.remove();
}

function changes(before, after) {
  if (!before || !after) return;
  const old = new Map(before.devices.map((device) => [device.name, device]));
  const texts = [];
  for (const device of after.devices) {
    const was = old.get(device.name);
    old.delete(device.name);
    if (was && was.state === device.state && was.namespace === device.namespace) continue;
    const what = was ? STATES[device.state] : `new, ${STATES[device.state]}`;
    texts.push(`${device.product || device.name} in ${where(device)}: ${what}. ${device.why.says}`);
  }
  for (const device of old.values()) texts.push(`${device.product || device.name}: forgotten`);
  if (texts.length > 4) note(`${texts.length} devices have changed`);
  else texts.forEach(note);
}

function connection(state, words) {
  $("link").dataset.state = state;
  $("link").textContent = words;
}

function trouble(said) {
  $("trouble").hidden = !said;
  $("trouble").textContent = said ? [said.text, said.note].filter(Boolean).join("\n") : "";
}

function see(view) {
  const before = page.view?.picture;
  page.view = view;
  trouble(view.trouble);
  connection(view.trouble ? "failed" : view.picture ? "attached" : "waiting", view.trouble ? "stale" : view.picture ? "live" : "reading");
  render();
  changes(before, view.picture);
}

// --- The way here -------------------------------------------------------------------------------------------------------

async function session() {
  const token = location.hash.slice(1);
  page.key = sessionStorage.getItem("key");
  if (!token) return;
  history.replaceState(null, "", "/");
  const answer = await fetch("/session", { method: "POST", body: token });
  if (!answer.ok) return;
  page.key = (await answer.json()).key;
  sessionStorage.setItem("key", page.key);
}

// Server-sent events, read by hand: an EventSource sends no key.
async function listen() {
  const answer = await fetch("/events", { headers: { Authorization: `Bearer ${page.key}` } });
  if (answer.status === 401) return false;
  if (!answer.ok) throw new Error(answer.statusText);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return true;
    const events = (text + value).split("\n\n");
    text = events.pop();
    const last = events.filter((event) => event.startsWith("data: ")).pop();
    if (last) see(JSON.parse(last.slice(6)));
  }
}

async function live() {
  const closed = { text: "This page has no key.", note: "The address that kubectl usb ui prints opens once. End it with Ctrl-C, and run it again." };
  try {
    await session();
  } catch {
    // It is tried below whether there is anybody.
  }
  for (;;) {
    try {
      if (!page.key || !(await listen())) {
        trouble(closed);
        return connection("failed", "closed");
      }
    } catch {
      // Said below.
    }
    connection("failed", "lost");
    trouble({ text: "kubectl usb ui does not answer: this is how it was.", note: "Does it still run? Trying again." });
    await new Promise((again) => setTimeout(again, 1000));
  }
}

function keys(event) {
  const typing = event.target.matches("input, select");
  if (event.key === "/" && !typing && !page.open) {
    event.preventDefault();
    return $("filter").focus();
  }
  if (event.key === "Escape" && event.target === $("filter")) {
    $("filter").value = "";
    return render();
  }
  const here = event.target.closest?.(".item");
  if (!here || page.open) return;
  const all = [...here.closest("section").querySelectorAll(".item")];
  const at = all.indexOf(here);
  const cables = [...$("cables").children].map((group) => group.cable);
  const isDevice = here.classList.contains("device");
  const cable = cables.find((one) => (isDevice ? deviceKey(one.device) : machineKey(one)) === here.dataset.key);
  const across = cable ? byKey(isDevice ? machineKey(cable) : deviceKey(cable.device)) : null;
  const to = {
    ArrowDown: all[at + 1], ArrowUp: all[at - 1], Home: all[0], End: all[all.length - 1],
    ArrowRight: isDevice ? (across ?? $("machines").querySelector(".item")) : null,
    ArrowLeft: isDevice ? null : (across ?? $("nodes").querySelector(".item")),
  }[event.key];
  if (to) {
    event.preventDefault();
    to.focus();
  }
}

document.addEventListener("keydown", keys);
$("filter").addEventListener("input", render);
$("panel").addEventListener("close", () => {
  const key = page.open;
  page.open = page.armed = page.said = null;
  $("panel").json = null;
  byKey(key)?.focus();
});
$("panel").addEventListener("click", (event) => {
  if (event.target === $("panel")) $("panel").close();
});
new ResizeObserver(() => layout()).observe(document.querySelector("main"));
live();
