// Runs named checks one after the other, and prints one line of JSON for what each of them saw.

export const baseURL = process.env.CCAPI_TEST_BASE_URL;

// Ample, so that only a check that hangs reaches it.
const patience = 60_000;

async function watched(look) {
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`not done in ${patience} ms`)), patience).unref();
  });
  return await Promise.race([look(), late]);
}

export async function report(checks) {
  for (const [check, look] of Object.entries(checks)) {
    let line;
    try {
      line = { check, saw: await watched(look) };
    } catch (error) {
      const story = `${error?.stack ?? error}`;
      line = { check, error: story.split("\n").slice(0, 8).join("\n") };
    }
    await new Promise((written) => process.stdout.write(`${JSON.stringify(line)}\n`, written));
  }
  // What a failed check left open must not keep the process.
  process.exit(0);
}

// The newest model that can be made to call a tool. Later ones always think, and refuse to be forced.
export const obedient = "claude-sonnet-5";

// A picture of one pixel.
export const png =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

// An empty page.
export const pdf =
  "JVBERi0xLjQKMSAwIG9iajw8L1R5cGUvQ2F0YWxvZy9QYWdlcyAyIDAgUj4+ZW5kb2JqCjIgMCBvYmo8PC9UeXBlL1BhZ2VzL0tpZHNbMyAwIFJdL0NvdW50IDE+PmVuZG9iagozIDAgb2JqPDwvVHlwZS9QYWdlL1BhcmVudCAyIDAgUi9NZWRpYUJveFswIDAgNzIgNzJdPj5lbmRvYmoKdHJhaWxlcjw8L1Jvb3QgMSAwIFI+PgolJUVPRgo=";

export const slow = `Say slowly: ${Array.from({ length: 400 }, (_, i) => `word${i}`).join(" ")}`;
