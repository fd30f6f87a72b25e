import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Response from "effect/ai/Response"
import * as DateTime from "effect/DateTime"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Json from "./json.ts"
import * as Sources from "./sources.ts"
import type { Reply } from "./transport.ts"
import * as Usage from "./usage.ts"

/** Reads the body of a chat completion. */
export const read = (
  json: unknown,
  reply: Reply
): Result.Result<ReadonlyArray<Response.PartEncoded>, ProviderError.ProviderError> => {
  const completion = Json.object(json)
  const choices = Json.array(completion["choices"])
  // Of several choices (`n`) the first is the answer.
  const choice = choices.find((one) => Json.object(one)["index"] === 0) ?? choices[0]
  const { message, finish_reason: finish } = Json.object(choice)
  // Only what an answer cannot do without is required. Whatever else a server sends, leaves out or misspells is read field by field.
  if (!Json.isObject(message)) {
    return Result.fail(reply.fail("InvalidResponse", "The answer is not a chat completion"))
  }
  const failure = failureOf(finish, reply)
  if (failure !== undefined) return Result.fail(failure)
  if (!isFinish(finish)) return Result.fail(reply.fail("StreamCut", "The answer has no finish reason"))
  const content: Array<Response.PartEncoded> = [metadata(completion, reply)]
  const reasoning = reasoningOf(message)
  if (reasoning !== "") content.push({ type: "reasoning", text: reasoning })
  const text = textOf(message["content"])
  if (text !== "") content.push({ type: "text", text })
  content.push(...sources(message, 0))
  const calls = toolCalls(message, finish)
  if (calls === undefined) {
    return Result.fail(reply.fail("InvalidResponse", "The arguments of a tool call are not JSON"))
  }
  content.push(...calls)
  const refusal = Json.string(message["refusal"]) ?? ""
  const refused = refusedOf({ refusal, finish, empty: text === "" && calls.length === 0 }, reply)
  if (refused !== undefined) return Result.fail(refused)
  content.push({ type: "finish", reason: reasonOf(finish, calls.length > 0), usage: usageOf(completion["usage"]) })
  return Result.succeed(content)
}

/** The part that names the answer, the model that gave it, and when. */
export const metadata = (
  completion: { readonly id?: unknown; readonly model?: unknown; readonly created?: unknown },
  reply: Reply
): Response.ResponseMetadataPartEncoded => {
  const id = Json.string(completion.id)
  const created = Json.count(completion.created)
  return {
    type: "response-metadata",
    ...(id === undefined || id === "" ? undefined : { id }),
    modelId: Json.string(completion.model) || reply.model,
    // A test server may well be of the year 0, and a broken one of the year 200 000.
    timestamp: DateTime.formatIso(
      DateTime.makeUnsafe(created !== undefined && created > 0 && created < 4e9 ? created * 1000 : reply.now)
    )
  }
}

/** The text of a message or a delta: a string, or the parts that some servers send instead. */
export const textOf = (content: unknown): string => {
  if (typeof content === "string") return content
  if (!Array.isArray(content)) return ""
  return content.reduce<string>((text, part) => text + (Json.string(Json.object(part)["text"]) ?? ""), "")
}

/** The reasoning in a message or a delta: `reasoning_content` (DeepSeek, vLLM, xAI) or `reasoning` (OpenRouter, Groq, Ollama). */
export const reasoningOf = (message: Json.JsonObject): string =>
  Json.string(message["reasoning_content"]) ?? Json.string(message["reasoning"]) ?? ""

/** What a message or a delta cites from the web. */
export const sources = (message: Json.JsonObject, before: number): ReadonlyArray<Response.UrlSourcePartEncoded> =>
  Json.array(message["annotations"]).flatMap((annotation, index) => {
    const { title, url } = Json.object(Json.object(annotation)["url_citation"])
    return Sources.page(`source_${before + index}`, url, title)
  })

const toolCalls = (
  message: Json.JsonObject,
  finish: unknown
): ReadonlyArray<Response.ToolCallPartEncoded> | undefined => {
  const calls: Array<Response.ToolCallPartEncoded> = []
  for (const [index, call] of Json.array(message["tool_calls"]).entries()) {
    const { name, arguments: text } = Json.object(Json.object(call)["function"])
    if (typeof name !== "string" || name === "") continue
    const params = parametersOf(text)
    // The end of the budget cuts arguments in the middle. The finish reason says so; half a call is of no use to anybody.
    if (Option.isNone(params) && finish === "length") continue
    if (Option.isNone(params)) return undefined
    calls.push({
      type: "tool-call",
      id: Json.string(Json.object(call)["id"]) || `call_${index}`,
      name,
      params: params.value
    })
  }
  return calls
}

/** The arguments of a tool call: JSON text, nothing for a tool without any, or JSON that some servers send as it is. */
export const parametersOf = (value: unknown): Option.Option<unknown> => {
  if (value === undefined || value === null) return Option.some({})
  if (typeof value !== "string") return Option.some(value)
  return value.trim() === "" ? Option.some({}) : Json.parse(value)
}

/** Whether a finish reason is one. Some servers write an empty one into every chunk. */
export const isFinish = (finish: unknown): boolean => finish !== undefined && finish !== null && finish !== ""

/** The error that a finish reason can be. */
export const failureOf = (finish: unknown, reply: Reply): ProviderError.ProviderError | undefined => {
  switch (finish) {
    case "error":
      return reply.fail("ServerError", "The answer finished with an error")
    // DeepSeek's way to say, within a 200, that it had to give up.
    case "insufficient_system_resource":
      return reply.fail("Overloaded", "The answer was interrupted because the provider lacks resources")
    default:
      return undefined
  }
}

/** The error for an answer that is a refusal: by the model itself, or by the filter around it. */
export const refusedOf = (
  answer: { readonly refusal: string; readonly finish: unknown; readonly empty: boolean },
  reply: Reply
): ProviderError.APIError | undefined => {
  if (answer.refusal !== "") return reply.fail("Refusal", answer.refusal)
  return answer.finish === "content_filter" && answer.empty
    ? reply.fail("ContentPolicy", "The content filter withheld the answer")
    : undefined
}

export const reasonOf = (finish: unknown, calls: boolean): Response.FinishReason => {
  switch (finish) {
    case "stop":
      // Ollama and others stop, rather than finish for tool calls.
      return calls ? "tool-calls" : "stop"
    case "length":
    case "max_tokens":
    case "model_length":
      return "length"
    case "tool_calls":
    case "function_call":
      return "tool-calls"
    case "content_filter":
      return "content-filter"
    default:
      return "other"
  }
}

/** Chat completions count `prompt` and `completion` tokens, the Responses API calls the same `input` and `output`. */
export const usageOf = (value: unknown, names: UsageNames = chatUsage): LlmResponse.Usage => {
  if (!Json.isObject(value)) return LlmResponse.unknownUsage
  const input = Json.count(value[names.input])
  const output = Json.count(value[names.output])
  const cached = Json.count(Json.object(value[names.inputDetails])["cached_tokens"])
  const reasoning = Json.count(Json.object(value[names.outputDetails])["reasoning_tokens"])
  return {
    inputTokens: Usage.withCache(input, cached),
    outputTokens: {
      ...(output === undefined ? undefined : { total: output }),
      ...(reasoning === undefined ? undefined : { reasoning }),
      // xAI does not count reasoning among the completion tokens.
      ...(output === undefined || reasoning === undefined || reasoning > output
        ? undefined
        : { text: output - reasoning })
    }
  }
}

const usageNames = (input: string, output: string) => ({
  input: `${input}_tokens`,
  output: `${output}_tokens`,
  inputDetails: `${input}_tokens_details`,
  outputDetails: `${output}_tokens_details`
})

type UsageNames = ReturnType<typeof usageNames>

const chatUsage = usageNames("prompt", "completion")

export const responsesUsage: UsageNames = usageNames("input", "output")
