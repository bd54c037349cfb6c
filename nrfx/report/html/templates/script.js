"use strict";
(() => {
  const root = document.documentElement;
  const all = (query, inside = document) => [...inside.querySelectorAll(query)];
  const aside = document.getElementById("details");
  root.classList.add("js");
  all("[hidden]").forEach((each) => (each.hidden = false));

  const theme = document.getElementById("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const named = () => (theme.textContent = dark() ? "Light" : "Dark");
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; named(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", named);
  named();
  if (!aside) return;

  let from = null;
  const show = (id, focus) => {
    const article = id && document.getElementById(id);
    all("article.open").forEach((each) => each.classList.remove("open"));
    all("[aria-current]").forEach((each) => each.removeAttribute("aria-current"));
    aside.classList.toggle("open", Boolean(article));
    if (!article) return;
    article.classList.add("open");
    aside.scrollTop = 0;
    all(`a[href="#${id}"]`).forEach((link) => {
      (link.closest("tr") || link).setAttribute("aria-current", "true");
    });
    if (focus) article.focus({ preventScroll: true });
  };
  const close = () => {
    show(null);
    history.replaceState(null, "", location.pathname + location.search);
    if (from) from.focus({ preventScroll: true });
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#l"]');
    if (!link) return;
    event.preventDefault();
    from = link;
    history.replaceState(null, "", link.getAttribute("href"));
    show(link.getAttribute("href").slice(1), event.detail === 0);
  });
  aside.querySelector(".close").addEventListener("click", close);
  addEventListener("hashchange", () => show(location.hash.slice(1)));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && aside.classList.contains("open")) close();
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const here = document.activeElement.closest && document.activeElement.closest('.box a[href^="#l"]');
    if (!step || !here) return;
    const links = all('a[href^="#l"]', here.closest(".box")).filter((each) => each.offsetParent);
    const next = links[links.indexOf(here) + step];
    if (next) { event.preventDefault(); next.focus(); }
  });
  if (/^#l\d+$/.test(location.hash)) show(location.hash.slice(1));

  const table = document.querySelector("table"), body = table.tBodies[0];
  const heads = all("thead th", table);
  const key = (row, column) => {
    const { sort } = row.cells[column].dataset;
    return sort === "" || isNaN(sort) ? sort : Number(sort);
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : head.classList.contains("number");
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row, index) => [key(row, column), index, row]);
      rows.sort(([a, i], [b, j]) => ((a > b) - (a < b)) * (down ? -1 : 1) || i - j);
      body.append(...rows.map(([, , row]) => row));
    });
  });

  const input = document.querySelector(".find input");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set();
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown.add(row.querySelector("a").hash);
    }
    all(".graph li").forEach((item) => {
      const link = item.querySelector("a");
      item.classList.toggle("off", words.length > 0 && !(link && shown.has(link.hash)));
    });
  });
})();
