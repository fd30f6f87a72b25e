import type * as Prompt from "effect/ai/Prompt"

/**
 * Whether a prompt certainly has more tokens than a context window. No tokenizer joins two words to one token, and hardly any token has
 * more than eight characters on average, so the count is below that of every model; what has no text (images, files) is not counted. Most
 * prompts are settled by their length: a token has at least one character.
 */
export const exceeds = (prompt: Prompt.Prompt, contextWindow: number): boolean => {
  const texts = textsOf(prompt)
  const length = texts.reduce((sum, text) => sum + text.length, 0)
  if (length <= contextWindow) return false
  let tokens = 0
  for (const text of texts) {
    tokens += atLeast(text)
    if (tokens > contextWindow) return true
  }
  return false
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

const textsOf = (prompt: Prompt.Prompt): ReadonlyArray<string> =>
  prompt.content.flatMap((message) =>
    typeof message.content === "string"
      ? [message.content]
      : message.content.flatMap((part) => (part.type === "text" ? [part.text] : []))
  )
