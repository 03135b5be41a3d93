// Day or night, before the first paint: the one script that is no module, since modules wait.
//
// Knows: the theme chosen in this browser (light, dark), else the system's own.

(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("ccapi.theme");
  } catch {
    // Without storage the system decides.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
