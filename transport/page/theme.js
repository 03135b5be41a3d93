// Day or night, before the first paint: the one script that is no module, since modules wait.
//
// Knows: what this browser was told (light, dark), else the system's own.

(() => {
  let told = null;
  try {
    told = localStorage.getItem("ccapi.theme");
  } catch {
    // Without storage the system decides.
  }
  if (told === "light" || told === "dark") document.documentElement.dataset.theme = told;
})();
