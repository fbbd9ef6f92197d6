// Which view is shown, the key, the language, and when the shown view asks the proxy again.

import { get, key, KeyNeeded } from "/console/api.js";
import { current, label, speak, t } from "/console/words.js";
import { mapView } from "/console/map.js";
import { nowView } from "/console/now.js";
import { requestsView } from "/console/requests.js";
import { tryView } from "/console/try.js";

const byId = (id) => document.getElementById(id);
const app = { get, keyNeeded, open };
const VIEWS = {
  map: mapView(byId("view-map"), app),
  requests: requestsView(byId("view-requests"), app),
  try: tryView(byId("view-try"), app),
  now: nowView(byId("view-now"), app),
};
const dialog = byId("key");
let shown = null;
let timer = null;
let asking = false;

/** Where the hash leads: a view, and what in it. */
function place() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  return [name in VIEWS ? name : "map", rest.length ? decodeURIComponent(rest.join("/")) : null];
}

function open(name, what) {
  location.hash = what ? `${name}/${encodeURIComponent(what)}` : name;
}

function show() {
  const [name, what] = place();
  for (const each of Object.keys(VIEWS)) byId(`view-${each}`).hidden = each !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  shown = name;
  VIEWS[name].show?.(what);
  refresh();
}

async function refresh() {
  clearTimeout(timer);
  const view = VIEWS[shown];
  if (!asking && !document.hidden && !dialog.open) {
    asking = true;
    try {
      await view.refresh();
      state("live", view.workers > 1 ? `${t("live")} · ${view.workers} ${t("workers")}` : t("live"));
    } catch (error) {
      if (error instanceof KeyNeeded) keyNeeded();
      else {
        console.warn(String(error));
        state("away", t("unreachable"));
      }
    } finally {
      asking = false;
    }
    if (view !== VIEWS[shown]) return refresh();
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, VIEWS[shown].every);
}

function state(name, text) {
  byId("state").className = name;
  byId("state").textContent = text;
}

function keyNeeded() {
  byId("key-wrong").textContent = key.get() ? t("keyWrong") : "";
  key.forget();
  byId("forget").hidden = true;
  if (!dialog.open) dialog.showModal();
}

dialog.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key-value").value.trim());
  byId("key-value").value = "";
  byId("forget").hidden = false;
  dialog.close();
});
dialog.addEventListener("close", refresh);

byId("forget").hidden = !key.get();
byId("forget").addEventListener("click", () => {
  key.forget();
  location.reload();
});
byId("language").value = current();
byId("language").addEventListener("change", (event) => {
  speak(event.target.value);
  draw();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();  // the hash names the view
  byId("main").focus();
});
window.addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => document.hidden || refresh());

function draw() {
  label(document);
  for (const view of Object.values(VIEWS)) view.draw();
  show();
}

draw();
