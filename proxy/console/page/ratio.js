// Whether there are as many producers to a consumer as the last minutes' traffic wants, and what to change.

import { el, ms, number, share } from "/console/dom.js";
import { t } from "/console/words.js";

const KINDS = { wrong: "bad", few: "bad", many: "warn", right: "good" };

/** Null where no model has both. */
export function ratioCard(told) {
  return told.verdicts.length ? el("div", { class: "card", id: "ratio" }, el("h3", {}, t("ratio")), told.verdicts.map((each) => said(each, told))) : "";
}

function said(verdict, { tpot_ms, verdicts }) {
  const { says, producers, consumers } = verdict;
  return el("p", { "data-says": says },
    verdicts.length > 1 ? [el("code", {}, verdict.model), " "] : null,
    el("span", { class: KINDS[says] ? `pill ${KINDS[says]}` : null }, t(`ratio_${says}`, changes(verdict), number(verdict.minutes))), " ",
    el("span", { class: "note" }, t("ratioUse", number(producers.number), share(producers.use), number(verdict.tokens_waiting), ms(verdict.wait_ms),
      number(consumers.number), share(consumers.use), share(verdict.cache_usage), ms(verdict.itl_ms), ms(tpot_ms))));
}

const changes = (verdict) => ["producers", "consumers"]
  .filter((side) => verdict[side].change)
  .map((side) => t(`${verdict[side].change > 0 ? "more" : "fewer"}_${side}`, number(Math.abs(verdict[side].change))))
  .join(", ");
