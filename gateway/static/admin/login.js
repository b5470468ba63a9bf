// The log-in: sends the key once, and keeps it nowhere; what stays is an HttpOnly cookie.

const form = document.getElementById("login");
const field = document.getElementById("key");
const reason = document.getElementById("reason");
const submit = document.getElementById("submit");

function wording(problem) {
  if (problem.code === "rate_limited") {
    return `Too many wrong keys from your network. Try again in ${Math.ceil(problem.retry_after)} s.`;
  }
  if (problem.status === 401) return "This is not a key of this gateway.";
  return problem.detail ? `Not logged in: ${problem.detail}.` : "Not logged in.";
}

async function logIn(key) {
  const response = await fetch("/admin/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ key }),
  });
  if (response.ok) return "";
  return wording(await response.json());
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = field.value.trim();
  if (!key) {
    reason.textContent = "Enter a key.";
    field.focus();
    return;
  }
  submit.disabled = true;
  reason.textContent = "";
  try {
    reason.textContent = await logIn(key);
  } catch {
    reason.textContent = "The gateway does not answer.";
  }
  submit.disabled = false;
  if (reason.textContent) {
    field.select();
    field.focus();
  } else {
    field.value = "";
    location.replace("/admin/");
  }
});

if (location.hash === "#ended") reason.textContent = "Your log-in has ended.";
