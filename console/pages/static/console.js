// The pages work without this script. It adds a copy button, a filter for lists, and protection against a double click.
"use strict";

// A click on [data-copy=ID] copies the value of the field with this id.
for (const button of document.querySelectorAll("[data-copy]")) {
  const field = document.getElementById(button.dataset.copy);
  const status = document.getElementById("copied");
  button.hidden = false;
  button.addEventListener("click", async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      if (!document.execCommand("copy")) return; // the text stays selected, so that the user can copy it
    }
    button.textContent = button.dataset.done;
    if (status) status.textContent = button.dataset.done;
  });
}

// The field [data-filter=SELECTOR] hides the elements of the selector that do not contain its text. Checked boxes stay visible.
for (const field of document.querySelectorAll("[data-filter]")) {
  field.closest("[hidden]")?.removeAttribute("hidden");
  const filter = () => {
    const text = field.value.trim().toLowerCase();
    for (const element of document.querySelectorAll(field.dataset.filter)) {
      element.hidden = !element.textContent.toLowerCase().includes(text) && !element.querySelector(":checked");
    }
  };
  field.addEventListener("input", filter);
  field.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
}

// A second click would replace the response of the first, and the user would not see the new secret.
for (const form of document.querySelectorAll("form[data-once]")) {
  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  window.addEventListener("pageshow", () => { sent = false; });
}
