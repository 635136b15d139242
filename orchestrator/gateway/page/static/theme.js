// Loaded before anything is painted, so that the page never flashes in the other colours.
(() => {
  const chosen = sessionStorage.getItem("spark-speech.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
