import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Option from "effect/Option"
import * as Result from "effect/Result"

/** Longer than this a text is no attribute: exporters refuse it, and nobody reads it there. */
const maxLength = 65_536

/** A prompt as the conventions write it, without the data of files. */
export const input = (prompt: Prompt.Prompt): string | undefined =>
  written(
    prompt.content.map((message) => ({
      role: message.role,
      parts:
        typeof message.content === "string"
          ? [{ type: "text", content: message.content }]
          : message.content.flatMap(part)
    }))
  )

/** An answer as the conventions write it. */
export const output = (content: ReadonlyArray<Response.PartEncoded>): string | undefined => {
  const finish = content.find((part) => part.type === "finish")
  return written([{ role: "assistant", parts: content.flatMap(part), finish_reason: finish?.reason ?? "unknown" }])
}

// The parameters of a tool may be anything, and what cannot be written must not fail the call.
const written = (messages: ReadonlyArray<object>): string | undefined => {
  const text = Option.getOrUndefined(Result.getSuccess(Result.try(() => JSON.stringify(messages))))
  return text === undefined || text.length > maxLength ? undefined : text
}

const part = (
  part: Exclude<Prompt.Message["content"], string>[number] | Response.PartEncoded
): ReadonlyArray<{ readonly type: string; readonly [field: string]: unknown }> => {
  switch (part.type) {
    case "text":
    case "reasoning":
      return [{ type: part.type, content: part.text }]
    case "file":
      return [{ type: "file", mime_type: part.mediaType }]
    case "tool-call":
      return [{ type: "tool_call", id: part.id, name: part.name, arguments: part.params }]
    case "tool-result":
      return [{ type: "tool_call_response", id: part.id, response: part.result }]
    default:
      return []
  }
}
