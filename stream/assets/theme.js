// Dark or light: what this browser was last told, else what the system has. It runs before the first paint.
const system = matchMedia("(prefers-color-scheme: dark)");

function showColours() {
  const { dataset } = document.documentElement;
  const isDark = dataset.theme ? dataset.theme === "dark" : system.matches;
  dataset.colours = isDark ? "dark" : "light";
  dispatchEvent(new CustomEvent("colours"));
}

try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* A browser without storage follows the system. */ }
system.addEventListener("change", showColours);
showColours();
