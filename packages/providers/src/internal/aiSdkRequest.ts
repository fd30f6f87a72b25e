import type { LanguageModelV3CallOptions, LanguageModelV4CallOptions } from "@ai-sdk/provider"
import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import type * as Prompt from "effect/ai/Prompt"
import * as Url from "effect/http/Url"
import * as Record from "effect/Record"
import * as Result from "effect/Result"
import * as Json from "./json.ts"
import * as JsonSchema from "./jsonSchema.ts"
import * as Translation from "./prompt.ts"

type Message = Exclude<LanguageModelV4CallOptions["prompt"][number], { readonly role: "system" }>
type Metadata = NonNullable<LanguageModelV4CallOptions["providerOptions"]>
type Content<R extends Message["role"]> = Extract<Message, { readonly role: R }>["content"][number]

/** The options of a call, but for the signal that ends it. */
export type CallOptions = Omit<LanguageModelV4CallOptions, "abortSignal">

/** Writes a request in the words of the AI SDK. `provider` is the first part of the model's name for its maker. */
export const write = (request: LlmRequest.LlmRequest, settings: LlmRequest.Settings, provider: string): CallOptions => {
  const { choice, tools } = Translation.toolsOf(request)
  const format = request.responseFormat
  return {
    prompt: Translation.withDistinctCalls(request.prompt).content.flatMap((message) => messages(message, provider)),
    ...(settings.maxOutputTokens === undefined ? undefined : { maxOutputTokens: settings.maxOutputTokens }),
    ...(settings.temperature === undefined ? undefined : { temperature: settings.temperature }),
    ...(settings.topP === undefined ? undefined : { topP: settings.topP }),
    ...(settings.stop === undefined ? undefined : { stopSequences: [...settings.stop] }),
    ...(settings.seed === undefined ? undefined : { seed: settings.seed }),
    responseFormat:
      format.type === "text"
        ? { type: "text" }
        : { type: "json", schema: JsonSchema.ofSchema(format.schema), name: format.objectName },
    ...(tools.length === 0
      ? undefined
      : {
          tools: tools.map(({ description, name, parameters, strict }) => ({
            type: "function",
            name,
            inputSchema: parameters,
            ...(description === undefined ? undefined : { description }),
            ...(strict === undefined ? undefined : { strict })
          })),
          toolChoice: typeof choice === "string" ? { type: choice } : { type: "tool", toolName: choice.tool }
        }),
    ...(settings.providerOptions === undefined ? undefined : { providerOptions: settings.providerOptions })
  }
}

const messages = (message: Prompt.Message, provider: string): LanguageModelV4CallOptions["prompt"] => {
  const options = providerOptions(message.options)
  switch (message.role) {
    case "system":
      return [{ role: "system", content: message.content, ...options }]
    case "user":
      return [
        {
          role: "user",
          content: message.content.map((part) => (part.type === "text" ? text(part) : file(part))),
          ...options
        }
      ]
    case "assistant": {
      const content = message.content.flatMap((part) => assistantPart(part, provider))
      const results = message.content.flatMap((part) => (part.type === "tool-result" ? toolResult(part) : []))
      return [
        ...(content.length === 0 ? [] : [{ role: "assistant" as const, content, ...options }]),
        ...(results.length === 0 ? [] : [{ role: "tool" as const, content: results }])
      ]
    }
    case "tool": {
      const content = message.content.flatMap((part) => (part.type === "tool-result" ? toolResult(part) : []))
      return content.length === 0 ? [] : [{ role: "tool", content, ...options }]
    }
  }
}

const providerOptions = (options: object): { readonly providerOptions?: Metadata } => {
  const given = Record.filter(options as { readonly [provider: string]: unknown }, Json.isObject)
  // What is there was JSON when it came in.
  return Object.keys(given).length === 0 ? {} : { providerOptions: given as Metadata }
}

const text = (part: Prompt.TextPart) => ({ type: "text" as const, text: part.text, ...providerOptions(part.options) })

const file = (part: Prompt.FilePart) => {
  const source = Translation.sourceOf(part)
  const url = source._tag === "Url" ? Result.getOrUndefined(Url.fromString(source.url)) : undefined
  return {
    type: "file" as const,
    mediaType: Translation.mediaTypeOf(part),
    ...(part.fileName === undefined ? undefined : { filename: part.fileName }),
    data:
      url === undefined
        ? { type: "data" as const, data: source._tag === "Url" ? source.url : source.data }
        : { type: "url" as const, url },
    ...providerOptions(part.options)
  }
}

// Reasoning goes back only to whom it came from, and tools that a provider ran itself are left out.
const assistantPart = (part: Prompt.AssistantMessagePart, provider: string): ReadonlyArray<Content<"assistant">> => {
  switch (part.type) {
    case "text":
      return part.text === "" ? [] : [text(part)]
    case "file":
      return [file(part)]
    case "reasoning":
      return provider in part.options ? [{ type: "reasoning", text: part.text, ...providerOptions(part.options) }] : []
    case "tool-call":
      return part.providerExecuted
        ? []
        : [
            {
              type: "tool-call",
              toolCallId: Translation.callId(part.id, 64),
              toolName: part.name,
              input: part.params ?? {},
              ...providerOptions(part.options)
            }
          ]
    default:
      return []
  }
}

const toolResult = (part: Prompt.ToolResultPart): ReadonlyArray<Content<"tool">> =>
  part.providerExecuted
    ? []
    : [
        {
          type: "tool-result",
          toolCallId: Translation.callId(part.id, 64),
          toolName: part.name,
          output: { type: part.isFailure ? "error-text" : "text", value: Translation.resultText(part) },
          ...providerOptions(part.options)
        }
      ]

/** The same options in the words of the specification before, which says directly what a file holds. */
export const before = (options: CallOptions): Omit<LanguageModelV3CallOptions, "abortSignal"> =>
  // The files of the prompt are all in which the two differ for what is written here.
  ({
    ...options,
    prompt: options.prompt.map((message) =>
      typeof message.content === "string"
        ? message
        : { ...message, content: message.content.map((part) => (part.type === "file" ? unwrapped(part) : part)) }
    )
  }) as Omit<LanguageModelV3CallOptions, "abortSignal">

const unwrapped = (part: Extract<Content<"user">, { readonly type: "file" }>) => {
  const { data } = part
  return { ...part, data: data.type === "data" ? data.data : data.type === "url" ? data.url : "" }
}
