// Shows what view_node sends, and presses its buttons. The state on the page is always the one that
// command_node reports, never what a button should have caused.

import { Plot, short } from "./plot.js";

const LOST = 3000; // ms without a message from view_node, which sends one at least every 500 ms
const AGAIN = 1000; // ms until the next try to connect
const CONFIRMED = 2000; // ms for a stop to be confirmed
const ANSWER = 5000; // ms for the answer to a button
const OLD = 3000; // ms without a new camera picture

const find = (selector) => document.querySelector(selector);

// Changes a text only where it differs: what is set again is read out again.
function say(selector, text) {
  const element = find(selector);
  if (element.textContent !== text) element.textContent = text;
}

const plots = {};
for (const name of ["distance", "surprise", "planning"]) plots[name] = new Plot(find(`#${name} canvas`));
const units = { distance: "", surprise: "", planning: " ms" };

const known = {}; // the newest of every value
let heard = -Infinity; // when view_node was heard last
let cameraCame = -Infinity;
let pressedStop = null; // {at, answered}, until it is confirmed
let connected = false;

// The stream.

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/watch`);
  socket.binaryType = "blob";
  let names = []; // of the pictures that follow
  let shown = [];
  socket.onopen = () => Object.keys(known).forEach((name) => delete known[name]); // of another view_node
  socket.onmessage = ({ data }) => {
    heard = performance.now();
    if (typeof data === "string") {
      const batch = JSON.parse(data);
      names = batch.pictures;
      shown = [];
      take(batch.values);
    } else {
      shown.push(showPicture(names.shift(), data));
    }
    // The next batch is sent only then: a slow browser is not sent more than it shows.
    if (!names.length) Promise.allSettled(shown).then(() => socket.readyState === 1 && socket.send("shown"));
  };
  const watch = setInterval(() => {
    if (heard > opened && performance.now() - heard > LOST) socket.close();
  }, 500);
  const opened = performance.now();
  let again = false;
  socket.onclose = socket.onerror = () => {
    clearInterval(watch);
    if (!again) setTimeout(connect, AGAIN);
    again = true;
  };
}

function take(values) {
  Object.assign(known, values);
  for (const [name, plot] of Object.entries(plots)) {
    if (!(name in values)) continue;
    if (values[name] !== null) plot.add(values[name]);
    say(`#${name} output`, values[name] === null ? "–" : short(values[name]) + units[name]);
  }
  if ("surprise_threshold" in values) plots.surprise.limit = values.surprise_threshold;
  render();
}

async function showPicture(name, blob) {
  const bitmap = await createImageBitmap(blob);
  const figure = find(`#${name}`);
  const canvas = figure.querySelector("canvas");
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  figure.dataset.shown = "";
  if (name === "camera") cameraCame = performance.now();
}

// The page.

function render() {
  connected = performance.now() - heard < LOST;
  const [state, reason] = currentState();
  document.body.dataset.state = state;
  const title = state === "LOST" ? "NOT CONNECTED" : state;
  say("#state", title);
  say("#reason", reason);
  const warning = connected ? (known.warning ?? "") : "";
  say("#warning", reason.includes(warning) ? "" : warning);
  document.title = `${title} · world_model_ros`;
  say("#planner", !connected || known.enabled === undefined ? "unknown" : known.enabled ? "enabled" : "disabled");
  say("#goal-note", known.goal_note ?? "");
  renderPictures();
  renderButtons();
  renderStop(state, reason);
}

// What command_node says it does, as far as that is known.
function currentState() {
  if (!connected) return ["LOST", "Not connected to view_node: nothing on this page is up to date. Trying again."];
  if (known.heard === false) {
    const last = known.status ? ` Its last state was: ${known.status}` : "";
    return ["UNKNOWN", `command_node is not running, or is not heard: the state of the robot is not known.${last}`];
  }
  if (!known.heard || !known.status) return ["WAITING", "Waiting for command_node."];
  const [state, ...reason] = known.status.split(": ");
  return [state, reason.join(": ")];
}

function renderPictures() {
  for (const name of ["camera", "goal", "imagination"]) {
    const figure = find(`#${name}`);
    const old = name === "camera" && "shown" in figure.dataset ? performance.now() - cameraCame : 0;
    let text = known[`${name}_missing`] ?? ("shown" in figure.dataset ? "" : "No picture yet.");
    if (name === "goal" && known.goal_note) text = "";
    if (!text && old > OLD) text = `No new picture for ${Math.round(old / 1000)} s.`;
    say(`#${name} .missing`, text);
    figure.toggleAttribute("data-old", Boolean(text) || !connected);
  }
}

function renderButtons() {
  for (const button of document.querySelectorAll("#controls button")) {
    const offered = known.offered?.[button.dataset.button];
    button.disabled = !connected || !offered;
    button.title = !connected ? "not connected" : offered ? "" : "no node that is running offers this";
  }
}

function renderStop(state, reason) {
  const dead = !connected ? "not connected: the button does not act"
    : known.stop_heard === false ? "no command_node: the button does not act" : "";
  say("#stop-hint", dead || "until Reset is pressed");
  find("#stop").toggleAttribute("data-dead", Boolean(dead));
  if (pressedStop === null) return;
  const isStop = pressedStop.answered || reason.startsWith("emergency stop"); // not another FAULT
  if (connected && known.heard && state === "FAULT" && isStop) {
    pressedStop = null;
    alarm("");
  } else if (performance.now() - pressedStop.at > CONFIRMED) {
    alarm("The stop is not confirmed: command_node does not report it. Use the robot's own emergency stop.", true);
  }
}

function alarm(text, bad = false) {
  say("#alarm", text);
  const place = find("#alarm");
  place.hidden = !text;
  place.toggleAttribute("data-bad", bad);
}

// The buttons.

async function press(button) {
  const name = button.dataset.button;
  const label = button.firstChild.textContent.trim() || button.querySelector("span").textContent;
  button.dataset.busy = "";
  let answer;
  try {
    const response = await fetch(`/press/${name}`, { method: "POST", signal: AbortSignal.timeout(ANSWER) });
    answer = response.ok ? await response.json() : { done: false, message: await response.text() };
  } catch {
    answer = { done: false, message: "view_node does not answer: the button did not act" };
  }
  delete button.dataset.busy;
  const time = new Date().toLocaleTimeString([], { hour12: false });
  say("#answer", `${time} ${label}: ${answer.done ? "" : "refused. "}${answer.message}`);
  return answer;
}

async function stop() {
  const pressed = (pressedStop = { at: performance.now(), answered: false });
  alarm("Stop sent, waiting for command_node to confirm it.");
  const answer = await press(find("#stop"));
  pressed.answered = answer.done;
  if (!answer.done && pressedStop !== null) {
    alarm(`The stop is not confirmed: ${answer.message}. Use the robot's own emergency stop.`, true);
  }
  render();
}

// A finger that has touched the stop button has pressed it; a click without one comes from the keyboard.
find("#stop").addEventListener("pointerdown", (event) => event.button === 0 && stop());
find("#stop").addEventListener("click", (event) => event.detail === 0 && stop());
for (const button of document.querySelectorAll("#controls button")) {
  button.addEventListener("click", () => press(button));
}

function drawPlots() {
  for (const plot of Object.values(plots)) plot.draw();
  setTimeout(() => requestAnimationFrame(drawPlots), 200); // hidden pages draw nothing
}

setInterval(render, 500);
drawPlots();
connect();
