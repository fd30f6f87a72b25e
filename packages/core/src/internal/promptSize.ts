import type * as Prompt from "effect/ai/Prompt"

/**
 * Whether a prompt certainly has more tokens than a context window. No tokenizer joins two words to one token, and hardly any token has
 * more than eight characters on average, so the count is below that of every model; what has no text (images, files) is not counted. Most
 * prompts are settled by their length: a token has at least one character.
 */
export const exceeds = (prompt: Prompt.Prompt, contextWindow: number): boolean =>
  sum(prompt, (text) => text.length) > contextWindow && sum(prompt, atLeast) > contextWindow

// Asked for every step of every request, so nothing is allocated.
const sum = (prompt: Prompt.Prompt, count: (text: string) => number): number => {
  let total = 0
  for (const { content } of prompt.content) {
    if (typeof content === "string") total += count(content)
    else for (const part of content) if (part.type === "text") total += count(part.text)
  }
  return total
}

const atLeast = (text: string): number => {
  let words = 0
  let inside = false
  let characters = 0
  let previous = -1
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    const isSpace = code <= 32
    // A run of the same character (spaces, a line of dashes) may be one token, however long it is.
    if (!isSpace && code !== previous) characters++
    previous = code
    if (!isSpace && !inside) words++
    inside = !isSpace
  }
  return Math.max(words, Math.floor(characters / 8))
}
