"use strict";
// What a test asks of a page, whose window and document are at hand. See tests/browser.py.
const rgba = color => { const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number); return {rgb: [r, g, b], a}; };
const behind = node => {
  for (; node; node = node.parentElement) {
    const {rgb, a} = rgba(getComputedStyle(node).backgroundColor);
    if (a === 1) return rgb;
  }
  throw Error("nothing opaque lies behind a node");
};
// The contrast of WCAG 2.1: from 1, not to be seen, to 21, black on white.
const luminance = rgb => rgb
  .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (node, property) => {
  const style = getComputedStyle(node), {rgb, a} = rgba(style[property]), ground = behind(node), alpha = a * style.opacity;
  const [low, high] = [ground, rgb.map((c, i) => alpha * c + (1 - alpha) * ground[i])].map(luminance).sort((a, b) => a - b);
  return {what: node.textContent.slice(0, 30) || node.outerHTML.slice(0, 60), contrast: (high + 0.05) / (low + 0.05)};
};
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const number = (node, name) => +node.getAttribute(name);
const written = node => node.checkVisibility() && [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
const look = () => ({
  width: window.innerWidth,
  dark: window.matchMedia("(prefers-color-scheme: dark)").matches,
  needs: document.documentElement.scrollWidth,
  cut: all("svg text").filter(node => {
    const text = node.getBoundingClientRect(), svg = node.closest("svg").getBoundingClientRect();
    return text.left < svg.left || text.right > svg.right || text.top < svg.top || text.bottom > svg.bottom;
  }).map(node => node.textContent),
  texts: all("body *").filter(written).filter(node => !node.closest("script"))
    .map(node => contrast(node, node.namespaceURI.endsWith("svg") ? "fill" : "color")),
  marks: [...all("path, polyline").map(node => contrast(node, "stroke")),
    ...all("circle").map(node => contrast(node, "fill"))],
  charts: all("figure").map(figure => ({
    title: figure.querySelector("svg").getAttribute("aria-label"),
    paths: all("path", figure).map(path => ({
      points: path.getAttribute("d").slice(1).split("L").map(point => point.split(" ").map(Number)),
      color: getComputedStyle(path).stroke,
      width: number(path, "stroke-width"),
    })),
    labels: all("text", figure).map(text => [number(text, "x"), number(text, "y"), text.textContent]),
    grid: all("line[stroke='var(--line)']", figure).map(line => number(line, "y1")),
    tip: figure.querySelector(".tip").checkVisibility() ? figure.querySelector(".tip").innerText : "",
  })),
});
const enter = (selector, value) => {
  const input = document.querySelector(selector);
  input.value = value;
  input.dispatchEvent(new Event("input"));
};
