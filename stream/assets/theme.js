// Before the first paint: the colours that this browser was last told, else those of the system.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* A browser without storage follows the system. */ }
