import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import * as Base64 from "effect/encoding/Base64"
import * as Hash from "effect/Hash"
import * as Record from "effect/Record"
import type * as Json from "./json.ts"
import * as JsonSchema from "./jsonSchema.ts"

/** Thrown by a protocol that has no words for a request. The transport calls the request invalid, and says why. */
export class Unwritable extends Error {}

const allowed = /^[a-zA-Z0-9_-]+$/

/**
 * The id of a tool call in a form that every provider accepts. An id that is fine stays as it is; another is spelled in the allowed
 * characters and gets a hash of the original, so that a call and its result still match and two calls stay apart.
 */
export const callId = (id: string, maxLength: number): string => {
  if (id.length <= maxLength && allowed.test(id)) return id
  const hash = (Hash.string(id) >>> 0).toString(36)
  const spelled = id.replace(/[^a-zA-Z0-9_-]/g, "_")
  return `${spelled.slice(0, maxLength - hash.length - 1)}_${hash}`
}

/**
 * The same prompt with an id of its own for every tool call. Servers that make none, and number the calls of each answer instead, give the
 * same id again in the next turn; others refuse a conversation in which an id stands twice.
 */
export const withDistinctCalls = (prompt: Prompt.Prompt): Prompt.Prompt => {
  const seen = new Map<string, number>()
  const named = (id: string): string => {
    const count = seen.get(id) ?? 1
    return count === 1 ? id : `${id}_${count}`
  }
  let again = false
  const call = (part: Prompt.ToolCallPart): Prompt.ToolCallPart => {
    const count = (seen.get(part.id) ?? 0) + 1
    seen.set(part.id, count)
    again ||= count > 1
    const { name, options, params, providerExecuted } = part
    return Prompt.toolCallPart({ id: named(part.id), name, options, params, providerExecuted })
  }
  const result = (part: Prompt.ToolResultPart): Prompt.ToolResultPart => {
    const { isFailure, modelOutput, name, options, providerExecuted, result } = part
    return Prompt.toolResultPart({
      id: named(part.id),
      isFailure,
      modelOutput,
      name,
      options,
      providerExecuted,
      result
    })
  }
  const messages = prompt.content.map((message): Prompt.Message => {
    const { options } = message
    switch (message.role) {
      case "assistant":
        return Prompt.assistantMessage({
          options,
          content: message.content.map((part) =>
            part.type === "tool-call" ? call(part) : part.type === "tool-result" ? result(part) : part
          )
        })
      case "tool":
        return Prompt.toolMessage({
          options,
          content: message.content.map((part) => (part.type === "tool-result" ? result(part) : part))
        })
      default:
        return message
    }
  })
  return again ? Prompt.fromMessages(messages) : prompt
}

/** What the user says first in a conversation that does not begin with the user. */
export const opening: Prompt.TextPart = Prompt.textPart({ text: "Please go on." })

/** What a tool gave, as the text for a model. */
export const resultText = (part: Prompt.ToolResultPart): string => {
  if (part.modelOutput !== undefined) return Prompt.toolModelOutputToText(part.modelOutput)
  return typeof part.result === "string" ? part.result : write(part.result ?? null)
}

/** The value as JSON text. What JSON cannot say throws, and the transport calls the request invalid. */
export const write = (value: unknown): string => JSON.stringify(value)

/** Where the bytes of a file are. */
export type Source = { readonly _tag: "Url"; readonly url: string } | { readonly _tag: "Base64"; readonly data: string }

export const sourceOf = (part: Prompt.FilePart): Source => {
  const data: unknown = part.data instanceof Uint8Array ? part.data : String(part.data)
  if (data instanceof Uint8Array) return { _tag: "Base64", data: Base64.encode(data) }
  if (typeof data !== "string") return { _tag: "Url", url: String(data) }
  if (/^https?:\/\//i.test(data)) return { _tag: "Url", url: data }
  const [, inline] = /^data:[^,]{0,200};base64,(.*)$/s.exec(data) ?? []
  return { _tag: "Base64", data: inline ?? data }
}

/** The media type with which a file can be sent: `image/*` says that the caller does not know, but a data URL may. */
export const mediaTypeOf = (part: Prompt.FilePart): string =>
  part.mediaType === "image/*"
    ? (/^data:(image\/[a-z0-9.+-]+)[;,]/i.exec(String(part.data).slice(0, 100))?.[1] ?? "image/jpeg")
    : part.mediaType

export interface FunctionTool {
  readonly name: string
  readonly description: string | undefined
  readonly parameters: Json.JsonObject
  readonly strict: boolean | undefined
}

/**
 * The tools that a model may call, and what to say about the choice.
 *
 * Tools that only one provider has are left out: they cannot be described to another one.
 */
export const toolsOf = (
  request: LlmRequest.LlmRequest
): {
  readonly tools: ReadonlyArray<FunctionTool>
  readonly choice: "auto" | "none" | "required" | { readonly tool: string }
} => {
  const choice = request.toolChoice
  const only = typeof choice === "object" && "oneOf" in choice ? new Set(choice.oneOf) : undefined
  const tools = request.tools
    .filter((tool) => !Tool.isProviderDefined(tool) && (only === undefined || only.has(tool.name)))
    .map((tool) => ({
      name: tool.name,
      description: Tool.getDescription(tool),
      parameters: JsonSchema.ofTool(tool),
      strict: Tool.getStrictMode(tool)
    }))
  if (typeof choice === "string") return { tools, choice }
  if ("tool" in choice) return { tools, choice: { tool: choice.tool } }
  return { tools, choice: choice.mode ?? "auto" }
}

/** The fields that a request wants in the body for this provider only: by protocol, then by the id of the step. */
export const providerOptions = (
  settings: LlmRequest.Settings,
  protocol: string,
  provider: string
): Json.JsonObject => ({
  ...settings.providerOptions?.[protocol],
  ...(provider === protocol ? undefined : settings.providerOptions?.[provider])
})

/** The stop sequences for a provider that refuses one of whitespace. */
export const stopSequences = (settings: LlmRequest.Settings): ReadonlyArray<string> =>
  settings.stop?.filter((text) => text.trim() !== "") ?? []

/** The settings of a request on top of the defaults of the provider. */
export const settingsOf = (
  defaults: LlmRequest.Settings | undefined,
  request: LlmRequest.LlmRequest
): LlmRequest.Settings =>
  defaults === undefined
    ? request.settings
    : {
        ...defaults,
        ...Object.fromEntries(Object.entries(request.settings).filter(([, value]) => value !== undefined)),
        providerOptions: Record.union(
          defaults.providerOptions ?? {},
          request.settings.providerOptions ?? {},
          (standing, asked) => ({ ...standing, ...asked })
        )
      }
