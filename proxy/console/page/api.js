// The proxy's paths, with the key that this tab was given. It is in no other place than sessionStorage.

const KEPT = "pd-console-key";

export class KeyNeeded extends Error {}

export const key = {
  get: () => sessionStorage.getItem(KEPT),
  set: (value) => sessionStorage.setItem(KEPT, value),
  forget: () => sessionStorage.removeItem(KEPT),
};

function headers(more = {}) {
  const given = key.get();
  return given ? { ...more, Authorization: `Bearer ${given}` } : more;
}

/** What a path says as JSON; null where it knows nothing (404). Throws KeyNeeded. */
export async function get(path) {
  const answer = await fetch(path, { headers: headers(), cache: "no-store" });
  if (answer.status === 401) throw new KeyNeeded();
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** A POST whose answer is read by the caller. Throws KeyNeeded. */
export async function post(path, body, signal) {
  const answer = await fetch(path, {
    method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal,
  });
  if (answer.status === 401) throw new KeyNeeded();
  return answer;
}

/** The data of each server-sent event, as text. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}
