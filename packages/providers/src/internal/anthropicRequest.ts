import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import type * as Prompt from "effect/ai/Prompt"
import * as Record from "effect/Record"
import type * as Schema from "effect/Schema"
import { answerToolDescription, toolName, type Writing } from "./adapter.ts"
import * as Json from "./json.ts"
import * as JsonSchema from "./jsonSchema.ts"
import * as Translation from "./prompt.ts"
import { systemTexts, turns, type Writer } from "./turns.ts"

/** How the model is made to answer with JSON: see `Anthropic.Options.structuredOutput`. */
export type StructuredOutput = "native" | "tool"

/** The tool through which a model answers with JSON, or `undefined` when the request does not go that way. */
export const answerTool = (request: LlmRequest.LlmRequest, structured: StructuredOutput): string | undefined => {
  if (request.responseFormat.type === "text") return undefined
  if (structured === "native" && JsonSchema.native(JsonSchema.ofSchema(request.responseFormat.schema)) !== undefined) {
    return undefined
  }
  return toolName(request.responseFormat.objectName)
}

/** Writes a request as the body of a message. */
export const body = (
  request: LlmRequest.LlmRequest,
  options: Writing & { readonly maxTokens: number; readonly structuredOutput: StructuredOutput }
): Json.JsonObject => {
  const { settings } = options
  const system = systemBlocks(request.prompt)
  const stop = Translation.stopSequences(settings)
  const written: Json.JsonObject = {
    model: options.model,
    max_tokens: settings.maxOutputTokens ?? options.maxTokens,
    ...(system.length === 0 ? undefined : { system }),
    messages: turns(request.prompt, writer),
    // The scale ends at 1, where others go on to 2; and newer models take the temperature or `top_p`, not both.
    ...(settings.temperature === undefined ? undefined : { temperature: Math.min(1, settings.temperature) }),
    ...(settings.topP === undefined || settings.temperature !== undefined ? undefined : { top_p: settings.topP }),
    ...(stop.length === 0 ? undefined : { stop_sequences: stop }),
    ...toolFields(request, options.structuredOutput),
    ...Translation.providerOptions(settings, "anthropic", options.provider),
    stream: options.stream
  }
  return continuesForeignTurn(written) ? Record.remove(written, "thinking") : written
}

const systemBlocks = (prompt: Prompt.Prompt): ReadonlyArray<Json.JsonObject> =>
  systemTexts(prompt).map(({ content, options }) => ({ type: "text", text: content, ...cacheControl(options) }))

// An empty text is answered with 400.
const textBlock = (part: Prompt.TextPart): ReadonlyArray<Json.JsonObject> =>
  part.text.trim() === "" ? [] : [{ type: "text", text: part.text, ...cacheControl(part.options) }]

const userBlock = (part: Prompt.UserMessagePart): ReadonlyArray<Json.JsonObject> =>
  part.type === "text" ? textBlock(part) : [file(part)]

const file = (part: Prompt.FilePart): Json.JsonObject => {
  const source = Translation.sourceOf(part)
  const mediaType = Translation.mediaTypeOf(part)
  const written =
    source._tag === "Url"
      ? { type: "url", url: source.url }
      : { type: "base64", media_type: mediaType, data: source.data }
  return mediaType.startsWith("image/")
    ? { type: "image", source: written, ...cacheControl(part.options) }
    : {
        type: "document",
        source: written,
        ...(part.fileName === undefined ? undefined : { title: part.fileName }),
        ...cacheControl(part.options)
      }
}

const maxIdLength = 64

// Thinking is accepted back only with the signature that Anthropic gave it. What another model thought stays with it.
const thinkingBlock = (part: Prompt.ReasoningPart): ReadonlyArray<Json.JsonObject> => {
  const { signature, redactedData } = Json.object(part.options["anthropic"])
  if (typeof redactedData === "string") return [{ type: "redacted_thinking", data: redactedData }]
  return typeof signature === "string" ? [{ type: "thinking", thinking: part.text, signature }] : []
}

const callBlock = (part: Prompt.ToolCallPart): ReadonlyArray<Json.JsonObject> => [
  {
    type: "tool_use",
    id: Translation.callId(part.id, maxIdLength),
    name: part.name,
    input: Json.isObject(part.params) ? part.params : {}
  }
]

const resultBlock = (part: Prompt.ToolResultPart): ReadonlyArray<Json.JsonObject> => [
  {
    type: "tool_result",
    tool_use_id: Translation.callId(part.id, maxIdLength),
    content: resultContent(part),
    ...(part.isFailure ? { is_error: true } : undefined),
    ...cacheControl(part.options)
  }
]

const resultContent = (part: Prompt.ToolResultPart): string | ReadonlyArray<Json.JsonObject> =>
  part.modelOutput !== undefined && part.modelOutput.some((output) => output.type === "file")
    ? part.modelOutput.flatMap(userBlock)
    : Translation.resultText(part)

const writer: Writer = {
  user: userBlock,
  text: textBlock,
  reasoning: thinkingBlock,
  call: callBlock,
  result: resultBlock
}

const cacheControl = (options: { readonly [provider: string]: unknown }): Json.JsonObject | undefined => {
  const { cache_control: control } = Json.object(options["anthropic"])
  return Json.isObject(control) ? { cache_control: control } : undefined
}

const toolFields = (request: LlmRequest.LlmRequest, structured: StructuredOutput): Json.JsonObject => {
  const { tools, choice } = Translation.toolsOf(request)
  const written = tools.map((tool) => ({
    name: tool.name,
    ...(tool.description === undefined ? undefined : { description: tool.description }),
    input_schema: tool.parameters
  }))
  const format = request.responseFormat
  const answer = answerTool(request, structured)
  if (format.type === "json" && answer !== undefined) {
    return {
      tools: [
        ...written,
        {
          name: answer,
          description: answerToolDescription,
          input_schema: JsonSchema.ofSchema(format.schema)
        }
      ],
      tool_choice: answerChoice(written.length === 0 ? "none" : choice, answer)
    }
  }
  return {
    ...(written.length === 0 ? undefined : { tools: written, tool_choice: toolChoice(choice) }),
    ...(format.type === "json" ? { output_config: { format: outputFormat(format.schema) } } : undefined)
  }
}

// To answer is the only choice of a model that shall call no other tool.
const answerChoice = (choice: ReturnType<typeof Translation.toolsOf>["choice"], answer: string): Json.JsonObject => {
  if (choice === "none") return { type: "tool", name: answer }
  return typeof choice === "object" ? toolChoice(choice) : { type: "any" }
}

const outputFormat = (schema: Schema.Constraint): Json.JsonObject => ({
  type: "json_schema",
  schema: JsonSchema.native(JsonSchema.ofSchema(schema)) ?? {}
})

const toolChoice = (choice: ReturnType<typeof Translation.toolsOf>["choice"]): Json.JsonObject => {
  if (typeof choice === "object") return { type: "tool", name: choice.tool }
  return { type: choice === "required" ? "any" : choice }
}

/**
 * Whether the model shall think while it goes on with a turn of another model. Anthropic answers that with 400: a turn with thinking
 * begins with signed thinking, which only its own model has.
 */
const continuesForeignTurn = (body: Json.JsonObject): boolean => {
  const type = Json.object(body["thinking"])["type"]
  if (type === undefined || type === "disabled") return false
  const turns = Json.array(body["messages"])
  const results = Json.array(Json.object(turns.at(-1))["content"]).some(
    (block) => Json.object(block)["type"] === "tool_result"
  )
  const first = Json.object(Json.array(Json.object(turns.at(-2))["content"])[0])["type"]
  return results && first !== "thinking" && first !== "redacted_thinking"
}
