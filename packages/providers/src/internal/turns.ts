import type * as Prompt from "effect/ai/Prompt"
import type * as Json from "./json.ts"
import * as Translation from "./prompt.ts"

/** What one side says in a row. */
export interface Turn {
  readonly role: "user" | "assistant"
  readonly content: Array<Json.JsonObject>
}

/** How a protocol writes the parts of a prompt. A part may be left out, or become several. */
export interface Writer {
  readonly user: (part: Prompt.UserMessagePart) => ReadonlyArray<Json.JsonObject>
  readonly text: (part: Prompt.TextPart) => ReadonlyArray<Json.JsonObject>
  readonly reasoning?: (part: Prompt.ReasoningPart) => ReadonlyArray<Json.JsonObject>
  readonly file?: (part: Prompt.FilePart) => ReadonlyArray<Json.JsonObject>
  readonly call: (part: Prompt.ToolCallPart) => ReadonlyArray<Json.JsonObject>
  readonly result: (part: Prompt.ToolResultPart) => ReadonlyArray<Json.JsonObject>
}

/**
 * The prompt without its system messages, as turns that alternate and begin with the user's: protocols other than OpenAI's insist on both.
 * What tools gave is said by the user, before anything else in that turn.
 */
export const turns = (prompt: Prompt.Prompt, writer: Writer): ReadonlyArray<Turn> => {
  const written: Array<Turn> = []
  // How many results stand at the beginning of the last turn.
  let results = 0
  const add = (role: Turn["role"], content: ReadonlyArray<Json.JsonObject>, areResults = false): void => {
    if (content.length === 0) return
    let last = written.at(-1)
    if (last?.role !== role) {
      last = { role, content: [] }
      results = 0
      written.push(last)
    }
    if (areResults) {
      last.content.splice(results, 0, ...content)
      results += content.length
    } else last.content.push(...content)
  }
  for (const message of Translation.withDistinctCalls(prompt).content) {
    switch (message.role) {
      case "system":
        break
      case "user":
        add("user", message.content.flatMap(writer.user))
        break
      case "assistant":
        add(
          "assistant",
          message.content.flatMap((part) => assistant(part, writer))
        )
        add("user", resultsOf(message.content, writer), true)
        break
      case "tool":
        add("user", resultsOf(message.content, writer), true)
        break
    }
  }
  if (written[0]?.role !== "user") {
    const opening = writer.user(Translation.opening)
    if (opening.length > 0) written.unshift({ role: "user", content: [...opening] })
  }
  trimPrefill(written.at(-1))
  return written
}

// Tools that the provider ran itself are left out: another provider, or this one without them, would refuse them.
const assistant = (part: Prompt.AssistantMessagePart, writer: Writer): ReadonlyArray<Json.JsonObject> => {
  switch (part.type) {
    case "text":
      return writer.text(part)
    case "reasoning":
      return writer.reasoning?.(part) ?? []
    case "file":
      return writer.file?.(part) ?? []
    case "tool-call":
      return part.providerExecuted ? [] : writer.call(part)
    default:
      return []
  }
}

const resultsOf = (
  parts: ReadonlyArray<Prompt.AssistantMessagePart | Prompt.ToolMessagePart>,
  writer: Writer
): ReadonlyArray<Json.JsonObject> =>
  parts.flatMap((part) => (part.type === "tool-result" && !part.providerExecuted ? writer.result(part) : []))

// An answer that the model shall continue must not end in whitespace.
const trimPrefill = (last: Turn | undefined): void => {
  const block = last?.content.at(-1)
  if (last?.role !== "assistant" || block === undefined || typeof block["text"] !== "string") return
  last.content[last.content.length - 1] = { ...block, text: block["text"].trimEnd() }
}

/** The texts of the system messages that say something. */
export const systemTexts = (prompt: Prompt.Prompt): ReadonlyArray<Prompt.SystemMessage> =>
  prompt.content.flatMap((message) => (message.role === "system" && message.content.trim() !== "" ? [message] : []))
