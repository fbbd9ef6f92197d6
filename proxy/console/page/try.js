// A prompt, sent by this page as any client sends it, and the waterfall of its answer.

import { events, KeyNeeded, post } from "/console/api.js";
import { el } from "/console/dom.js";
import { details } from "/console/waterfall.js";
import { t } from "/console/words.js";

const SHORT = "San Francisco is a";
const KINDS = { completions: "/v1/completions", chat: "/v1/chat/completions" };
const SAMPLING = { max_tokens: [64, 1, 1], temperature: ["", 0, 0.1], top_p: ["", 0, 0.05], seed: ["", 0, 1] }; // value, min, step
const WORDS = "river stone heron valley morning engine letter window garden harbour signal copper winter paper island".split(" ");
const ASKED_AGAIN_MS = 150;
const ASKED_AT_MOST = 20; // the record is there once the proxy has seen the end of its stream

export function tryView(root, app) {
  let models = [];
  let localTokens = 0;
  let last = null;
  let running = null;
  let fields = null;
  let record = null;

  function draw() {
    const kept = fields ? values() : { prompt: SHORT, kind: "completions", model: "", stream: true };
    const said = fields?.output.textContent ?? "";
    fields = {
      prompt: el("textarea", { id: "prompt", rows: "5", placeholder: t("promptHint") }),
      kind: el("select", { id: "kind" }, Object.keys(KINDS).map((name) => el("option", { value: name }, name))),
      model: el("select", { id: "model" }, models.map((name) => el("option", { value: name }, name))),
      stream: el("input", { id: "stream", type: "checkbox" }),
      output: el("pre", { id: "output", tabindex: "0", "aria-label": t("output") }),
      status: el("p", { id: "answer-status", role: "status" }),
      facts: el("div", { id: "answer-facts" }),
      send: el("button", { type: "submit" }, t("send")),
      stop: el("button", { type: "button", class: "plain", onclick: () => running?.abort() }, t("stop")),
    };
    for (const [name, [value, min, step]] of Object.entries(SAMPLING)) {
      fields[name] = el("input", { id: name, type: "number", min, step, placeholder: t("optional") });
      fields[name].value = kept[name] ?? value;
    }
    fields.prompt.value = kept.prompt;
    fields.kind.value = kept.kind;
    if (kept.model) fields.model.value = kept.model;
    fields.stream.checked = kept.stream;
    fields.output.textContent = said;
    fields.again = el("button", { type: "button", id: "again", class: "plain", onclick: () => send(last) }, t("again"));
    const labelled = (name, words) => el("label", { for: name }, words, fields[name]);
    root.replaceChildren(el("form", { class: "card try", onsubmit: (event) => { event.preventDefault(); send(body()); } },
      el("div", { class: "presets" },
        el("button", { type: "button", id: "short", class: "plain", onclick: () => preset(SHORT) }, t("short")),
        el("button", { type: "button", id: "long", class: "plain", onclick: () => preset(longPrompt(localTokens)) }, t("long")), fields.again),
      labelled("prompt", t("prompt")),
      el("fieldset", {}, el("legend", {}, t("sampling")), labelled("kind", t("kind")), labelled("model", t("model")),
        Object.keys(SAMPLING).map((name) => labelled(name, name)), labelled("stream", t("stream"))),
      el("div", { class: "presets" }, fields.send, fields.stop)),
    el("div", { class: "card" }, el("h2", {}, t("output")), fields.status, fields.output), fields.facts);
    enable();
    if (record) fields.facts.replaceChildren(el("div", { class: "card" }, details(record)));
  }

  function values() {
    const named = ["prompt", "kind", "model", ...Object.keys(SAMPLING)].map((name) => [name, fields[name].value]);
    return { ...Object.fromEntries(named), stream: fields.stream.checked };
  }

  function enable() {
    fields.send.disabled = Boolean(running);
    fields.stop.disabled = !running;
    fields.again.disabled = Boolean(running) || last === null;
  }

  function preset(prompt) {
    fields.prompt.value = prompt;
    send(body());
  }

  function body() {
    const { prompt, kind, model, stream } = values();
    const numbers = Object.keys(SAMPLING).filter((name) => fields[name].value !== "").map((name) => [name, Number(fields[name].value)]);
    const said = kind === "chat" ? { messages: [{ role: "user", content: prompt }] } : { prompt };
    return { path: KINDS[kind], body: { ...(model ? { model } : {}), ...said, ...Object.fromEntries(numbers), stream } };
  }

  async function send(what) {
    if (running || !what) return;
    last = what;
    running = new AbortController();
    record = null;
    fields.output.textContent = "";
    fields.facts.replaceChildren();
    say(t("waits"));
    enable();
    let id = null;
    try {
      const answer = await post(what.path, what.body, running.signal);
      id = answer.headers.get("X-Request-Id");
      await read(answer);
    } catch (error) {
      if (error instanceof KeyNeeded) app.keyNeeded();
      else say(error.name === "AbortError" ? t("stopped") : String(error), true);
    }
    running = null;
    enable();
    if (id) await showRecord(id);
  }

  async function read(answer) {
    say(String(answer.status), !answer.ok);
    if (!(answer.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
      const told = await answer.json();
      if (told.error) say(`${answer.status}: ${told.error.message}`, true);
      else add(textOf(told));
      return;
    }
    for await (const data of events(answer)) {
      if (data === "[DONE]") continue;
      const told = JSON.parse(data);
      if (told.error) say(told.error.message, true);
      else add(textOf(told));
    }
  }

  const add = (text) => fields.output.append(text);

  function say(text, bad = false) {
    fields.status.textContent = text;
    fields.status.className = bad ? "bad" : "note";
  }

  async function showRecord(id) {
    for (let asked = 0; asked < ASKED_AT_MOST && !record; asked += 1) {
      if (asked) await new Promise((done) => setTimeout(done, ASKED_AGAIN_MS));
      record = await app.get(`/console/api/requests/${encodeURIComponent(id)}`).catch(() => null);
    }
    fields.facts.replaceChildren(el("div", { class: "card" }, record ? details(record) : el("p", {}, t("noFacts"))));
  }

  return {
    every: 10000,
    workers: 1,
    draw,
    async refresh() {
      const [told, now] = await Promise.all([app.get("/v1/models"), app.get("/console/api/now")]);
      this.workers = now.workers.length;
      localTokens = now.local_prompt_tokens;
      const names = told.data.map((each) => each.id);
      if (names.join("\n") === models.join("\n")) return;
      models = names;
      const chosen = fields.model.value;
      fields.model.replaceChildren(...models.map((name) => el("option", { value: name }, name)));
      if (models.includes(chosen)) fields.model.value = chosen;
    },
  };
}

function textOf(told) {
  const choice = told.choices?.[0];
  return choice?.text ?? choice?.delta?.content ?? choice?.message?.content ?? "";
}

/** Never the same twice, so that no cache has it: three times what stays local, of at least 300 words. */
function longPrompt(localTokens) {
  const pick = () => WORDS[Math.floor(Math.random() * WORDS.length)];
  const sentences = [];
  for (let words = 0; words < Math.max(300, 3 * localTokens); words += 10) {
    sentences.push(`On day ${Math.floor(Math.random() * 900)} the ${pick()} near the ${pick()} was a ${pick()}.`);
  }
  return `${sentences.join(" ")} In short, the`;
}
