// The dialog of a device or a machine: why it is as it is, and what can be done about it.
"use strict";

function openPanel(key) {
  page.open = key;
  page.said = null;
  $("tip").hidden = true;
  panel();
  if (!$("panel").open) $("panel").showModal();
  $("panel").querySelector(".acts button, .acts select, .close")?.focus();
}

function panel() {
  const picture = page.view.picture;
  const device = picture.devices.find((one) => deviceKey(one.name) === page.open);
  const machine = picture.machines.find((one) => machineKey(one) === page.open);
  if (!device && !machine) return $("panel").close();
  const json = JSON.stringify([device, machine, page.said, page.busy, page.armed, picture.cables, picture.machines, picture.namespaces, !device && picture.devices]);
  if ($("panel").json === json) return;
  $("panel").json = json;
  const focus = document.activeElement?.dataset?.key;
  const chosen = new Map([...$("panel").querySelectorAll("select")].map((select) => [select.dataset.key, select.value]));
  const body = device ? aboutDevice(picture, device) : aboutMachine(picture, machine);
  const said = page.said && make("p", { class: page.said.done ? "said" : "said bad", role: "status" }, [page.said.text, page.said.note].filter(Boolean).join("\n"));
  const close = make("button", { type: "button", class: "close", "data-key": "close", "aria-label": "Close", onclick: () => $("panel").close() }, "✕");
  $("panel").replaceChildren(...body.filter(Boolean), ...(said ? [said] : []), close);
  for (const [key, value] of chosen) {
    const select = byKey(key);
    if (select && [...select.options].some((option) => option.value === value)) select.value = value;
  }
  if (focus && $("panel").open) (byKey(focus) ?? $("panel").querySelector(".acts button, .close")).focus();
}

function about(title, facts, state, word, why) {
  const marks = { true: ["yes", "✓", "holds"], false: ["no", "✗", "does not hold"], null: ["", "·", "not reached"] };
  const links = why.links.map(({ title, holds, says }) => {
    const [kind, mark, words] = marks[String(holds)];
    return make("li", { class: kind }, make("span", { role: "img", "aria-label": words }, mark), make("span", {}, title), make("span", {}, says));
  });
  const todo = why.todo.map((line) => ("say" in line ? make("p", {}, line.say) : make("code", {}, line.run)));
  return [
    make("h2", { id: "title" }, title),
    make("p", { class: "facts" }, ...facts.map((fact) => make("span", {}, fact))),
    make("p", { class: "state", "data-state": state }, make("b", {}, word), `: ${why.says}`),
    links.length ? make("ol", { class: "links" }, ...links) : null,
    todo.length ? make("div", { class: "todo" }, ...todo) : null,
  ];
}

function aboutDevice(picture, device) {
  const facts = [device.name, ...device.facts.map(([what, fact]) => `${what} ${fact}`)];
  const cables = picture.cables.filter((cable) => cable.device === device.name);
  const used = cables.some((cable) => cable.state === "attached");
  const name = device.name;
  const machines = picture.machines.filter((it) => it.kind === "vm" && it.namespace === device.namespace);
  const rest = machines.filter((it) => !cables.some((cable) => cable.listed && machineKey(cable) === machineKey(it)));
  const acts = [];
  if (device.namespace) acts.push(...choice("Attach it to", "Attach", rest.map((it) => it.name), (vm) => ({ do: "attach", device: name, namespace: device.namespace, vm }), true));
  for (const cable of cables.filter((cable) => cable.listed)) {
    const act = { do: "detach", device: name, namespace: cable.namespace, vm: cable.machine };
    acts.push(row(`Take it out of ${cable.machine}`, "Detach", act, cable.state === "attached" && "Really? The guest loses it"));
  }
  const others = picture.namespaces.filter((namespace) => namespace !== device.namespace);
  const assign = (namespace) => ({ do: "assign", device: name, namespace, overwrite: device.namespace !== null });
  if (!picture.only && !device.namespace) acts.push(...choice("Give it to namespace", "Assign", others, assign, true));
  if (!picture.only && device.namespace) {
    const really = used && "Really? The guest loses it";
    acts.push(...choice("Give it to another namespace", "Assign", others, assign, false, really));
    acts.push(row(`Take it from namespace ${device.namespace}`, "Unassign", { do: "unassign", device: name }, really));
  }
  return [...about(device.product || name, facts, device.state, STATES[device.state], device.why), make("div", { class: "acts" }, ...acts)];
}

function aboutMachine(picture, it) {
  const cables = picture.cables.filter((cable) => machineKey(cable) === machineKey(it));
  const called = (name) => picture.devices.find((device) => device.name === name)?.product || name;
  const acts = [];
  if (it.kind === "vm") {
    const free = picture.devices.filter((device) => device.namespace === it.namespace && !cables.some((cable) => cable.listed && cable.device === device.name));
    const attach = (device) => ({ do: "attach", device, namespace: it.namespace, vm: it.name });
    acts.push(...choice("Attach", "Attach", free.map((device) => device.name), attach, true, false, called));
    for (const cable of cables.filter((cable) => cable.listed)) {
      const act = { do: "detach", device: cable.device, namespace: it.namespace, vm: it.name };
      acts.push(row(`${called(cable.device)} (${STATES[cable.state]})`, "Detach", act, cable.state === "attached" && "Really? The guest loses it"));
    }
    for (const device of it.unknown) {
      acts.push(row(`${device} (there is no such device)`, "Take off the list", { do: "detach", device, namespace: it.namespace, vm: it.name }));
    }
  }
  const why = { says: it.says, links: [], todo: [] };
  const facts = [it.kind === "pod" ? "pod" : "virtual machine", `namespace ${it.namespace}`, it.node ? `node ${it.node}` : ""];
  const none = acts.length === 0 && it.kind === "vm" ? make("p", { class: "todo" }, `No device of namespace ${it.namespace} is left to attach.`) : null;
  return [...about(it.name, facts, it.runs ? "attached" : "off", it.runs ? "runs" : "does not run", why), none, make("div", { class: "acts" }, ...acts)];
}

function row(text, word, act, really) {
  const key = `act ${JSON.stringify(act)}`;
  const label = make("label", { class: "act" }, text);
  return make("div", {}, label, button(key, word, () => act, false, really, `${word}: ${text}`));
}

// One button for one thing; a list to choose from for more.
function choice(text, word, values, act, first, really, called = (value) => value) {
  if (values.length === 0) return [];
  if (values.length === 1) {
    const key = `act ${JSON.stringify(act(values[0]))}`;
    const label = `${text} ${called(values[0])}`;
    return [make("div", {}, make("label", { class: "act" }, label), button(key, word, () => act(values[0]), first, really, `${word}: ${label}`))];
  }
  const id = `choice-${word}-${first}`;
  const options = values.map((value) => make("option", { value }, called(value)));
  const select = make("select", { id, "data-key": id }, ...options);
  return [make("div", {}, make("label", { class: "act", for: id }, text), select, button(`${id} go`, word, () => act(select.value), first, really, `${word}: ${text}`))];
}

function button(key, word, act, first, really, label) {
  const armed = page.armed === key;
  const kind = armed ? "armed" : first ? "first" : null;
  const press = () => {
    if (page.busy) return;
    page.armed = really && !armed ? key : null;
    if (!page.armed) return ask(act());
    page.said = null;
    panel();
  };
  // One that is disabled would lose the focus.
  const attributes = { type: "button", class: kind, "data-key": key, "aria-label": armed ? `${really}. ${label}` : label, "aria-disabled": page.busy && "true", onclick: press };
  return make("button", attributes, armed ? really : word);
}

async function ask(act) {
  if (page.busy) return;
  page.busy = true;
  panel();
  try {
    const answer = await fetch("/do", { method: "POST", headers: { Authorization: `Bearer ${page.key}` }, body: JSON.stringify(act) });
    page.said = answer.ok ? await answer.json() : { done: false, text: await answer.text(), note: "" };
  } catch {
    page.said = { done: false, text: "kubectl usb ui does not answer", note: "Does it still run?" };
  }
  page.busy = false;
  note(page.said.text);
  if (page.open) panel();
}
