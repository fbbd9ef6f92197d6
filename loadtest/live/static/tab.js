// Shows our page under the tab that `extended_tabs` added to Locust's. Locust draws nothing for a tab without a table.
"use strict";
{
  const { title, page } = document.currentScript.dataset;
  const frame = document.createElement("iframe");
  Object.assign(frame, { src: page, title });
  Object.assign(frame.style, { display: "none", width: "100%", height: "100vh", border: "0" });

  const place = () => {
    const tab = [...document.querySelectorAll("[role=tab]")].find((button) => button.textContent === title);
    const selected = tab?.getAttribute("aria-selected") === "true";
    const tabs = tab?.closest(".MuiTabs-root");
    // The box around the tabs never changes its children, so that React and we do not meet. Inserting loads the page.
    if (selected && frame.previousSibling !== tabs) tabs.after(frame);
    frame.style.display = selected ? "block" : "none";
  };
  new MutationObserver(place).observe(document.getElementById("root"), {
    subtree: true,
    childList: true,
    attributeFilter: ["aria-selected"],
  });
  place();
}
