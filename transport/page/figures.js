// Numbers as the overview writes them.

export const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
export const whole = new Intl.NumberFormat("en");

export const counted = (count, word) => `${whole.format(count)} ${word}${count === 1 ? "" : "s"}`;

export function dollars(value) {
  return value && value < 0.1 ? `$${value.toFixed(4)}` : `$${value.toFixed(2)}`;
}
