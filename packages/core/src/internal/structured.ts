import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { LlmRequest } from "../LlmRequest.ts"
import type { LlmResponse, Usage } from "../LlmResponse.ts"
import * as Answer from "../LlmResponse.ts"
import { continued } from "./saying.ts"

/** What is wrong with a text that should be JSON of a certain shape, or `undefined` when nothing is. */
export type Validate = (text: string) => Effect.Effect<ReadonlyArray<string> | undefined>

const maxIssues = 10
const maxIssueLength = 200

/** The schema's own words never repeat the answer, so neither the log nor the error does. */
export const validator = (schema: Schema.Top): Validate => {
  // What the schema needs for decoding, the caller who will decode the answer has in its context, and this runs in its fiber.
  const codec = schema as Schema.Codec<unknown, unknown>
  const decode = Schema.decodeEffect(Schema.fromJsonString(codec), { errors: "all" })
  return (text) =>
    Effect.match(decode(text), {
      onSuccess: () => undefined,
      onFailure: (error) =>
        error.message
          .replaceAll(/\n\s+at /g, " at ")
          .split("\n")
          .slice(0, maxIssues)
          .map((issue) => issue.slice(0, maxIssueLength))
    })
}

/** The answer without the Markdown fence that is around all of its text, if one is. */
export const withoutFence = (response: LlmResponse): LlmResponse | undefined => {
  const text = response.text.trim()
  const firstLine = text.indexOf("\n")
  if (!/^```\w*\s*$/.test(text.slice(0, Math.max(0, firstLine))) || !text.endsWith("```")) return undefined
  const bare = text.slice(firstLine + 1, -3).trim()
  const first = response.content.findIndex((part) => part.type === "text")
  const content = response.content.flatMap((part, index): ReadonlyArray<Response.PartEncoded> => {
    if (part.type !== "text") return [part]
    return index === first ? [{ ...part, text: bare }] : []
  })
  return Answer.make({ content, served: response.served, limits: response.limits })
}

/** A longer answer is not shown to the model again: the prompt would not be the same question any more. */
const maxShown = 32_768

/** The request that shows the model its answer and what is wrong with it, unless there is nothing that can be shown. */
export const correcting = (
  request: LlmRequest,
  answer: string,
  issues: ReadonlyArray<string>
): LlmRequest | undefined => {
  if (answer.trim() === "" || answer.length > maxShown || continued(request) !== "") return undefined
  const instruction = [
    "Your answer does not have the requested structure:",
    ...issues.map((issue) => `- ${issue}`),
    "Answer again with the corrected JSON only, without any other text."
  ].join("\n")
  const prompt = Prompt.concat(request.prompt, [
    { role: "assistant", content: answer },
    { role: "user", content: instruction }
  ])
  return { ...request, prompt }
}

/** Adds the tokens of an earlier answer, which were paid for too. */
export const plusUsage = (response: LlmResponse, before: Usage): LlmResponse =>
  Answer.make({
    content: response.content.map((part) =>
      part.type === "finish" ? { ...part, usage: sum(before, part.usage) } : part
    ),
    served: response.served,
    limits: response.limits
  })

const sum = (left: Usage, right: Usage): Usage => ({
  inputTokens: {
    ...plus("uncached", left.inputTokens, right.inputTokens),
    ...plus("total", left.inputTokens, right.inputTokens),
    ...plus("cacheRead", left.inputTokens, right.inputTokens),
    ...plus("cacheWrite", left.inputTokens, right.inputTokens)
  },
  outputTokens: {
    ...plus("total", left.outputTokens, right.outputTokens),
    ...plus("text", left.outputTokens, right.outputTokens),
    ...plus("reasoning", left.outputTokens, right.outputTokens)
  }
})

const plus = <K extends string>(
  key: K,
  left: { readonly [P in K]?: number | undefined },
  right: { readonly [P in K]?: number | undefined }
): { readonly [P in K]?: number } => {
  const [before, after] = [left[key], right[key]]
  // Only what at least one of the two tells is known.
  return before === undefined && after === undefined
    ? {}
    : ({ [key]: (before ?? 0) + (after ?? 0) } as { readonly [P in K]?: number })
}
