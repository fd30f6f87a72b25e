import type {
  LanguageModelV3Content,
  LanguageModelV3StreamPart,
  LanguageModelV3Usage,
  LanguageModelV4Content,
  LanguageModelV4FinishReason,
  LanguageModelV4StreamPart
} from "@ai-sdk/provider"
import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Response from "effect/ai/Response"
import * as DateTime from "effect/DateTime"
import * as Base64 from "effect/encoding/Base64"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Json from "./json.ts"
import * as Sources from "./sources.ts"

type Content = LanguageModelV4Content | LanguageModelV3Content

interface Named {
  readonly provider: string
}

/** Reads the content of a whole answer, and its end. */
export const read = (
  answer: {
    readonly content: ReadonlyArray<Content>
    readonly finishReason: LanguageModelV4FinishReason
    readonly usage: LanguageModelV3Usage
    readonly response?: object | undefined
    readonly structuredOutputText?: string | undefined
  },
  at: Named & { readonly model: string; readonly now: number; readonly json: boolean }
): Result.Result<ReadonlyArray<Response.PartEncoded>, ProviderError.ProviderError> => {
  const parts: Array<Response.PartEncoded> = []
  // What a package of somebody else gives is of the declared type, or not.
  if (!Json.isObject(answer) || !Array.isArray(answer.content) || answer.content.some((part) => !Json.isObject(part))) {
    return Result.fail(failure(at.provider, "InvalidResponse", "The model gave no content"))
  }
  for (const [index, content] of answer.content.entries()) {
    const read = contentParts(content, String(index), unifiedOf(answer.finishReason), at)
    if (Result.isFailure(read)) return Result.fail(read.failure)
    parts.push(...read.success)
  }
  // A model that drafts before it answers says which of its words are the JSON.
  const structured = at.json ? Json.string(answer.structuredOutputText) : undefined
  const said =
    structured === undefined
      ? parts
      : [...parts.filter((part) => part.type !== "text"), { type: "text" as const, text: structured }]
  const withheld = failureOf(answer.finishReason, parts.length === 0, at)
  if (withheld !== undefined) return Result.fail(withheld)
  return Result.succeed([
    metadata(Json.object(answer.response), at),
    ...said.filter(unseen()),
    finish(answer.finishReason, answer.usage)
  ])
}

const contentParts = (
  content: Content,
  id: string,
  finish: string,
  at: Named
): Result.Result<ReadonlyArray<Response.PartEncoded>, ProviderError.ProviderError> => {
  switch (content.type) {
    case "text":
      return Result.succeed([
        ...(content.text === "" ? [] : [{ type: "text" as const, text: content.text, ...tagged(content) }]),
        ...citations(content, id)
      ])
    case "reasoning":
      return Result.succeed([{ type: "reasoning", text: content.text, ...tagged(content) }])
    default:
      return rest(content, id, finish, at)
  }
}

const rest = (
  part: Exclude<Content, { readonly type: "text" | "reasoning" }>,
  id: string,
  finish: string | undefined,
  at: Named
): Result.Result<ReadonlyArray<Parts>, ProviderError.ProviderError> => {
  switch (part.type) {
    case "file":
      return Result.succeed(file(part.mediaType, part.data))
    case "source":
      return Result.succeed(source(part, id))
    case "tool-call": {
      // Tools that the provider runs itself are left out: nobody here knows them.
      if (part.providerExecuted === true) return Result.succeed([])
      const params = part.input.trim() === "" ? Option.some({}) : Json.parse(part.input)
      if (Option.isSome(params)) {
        const { toolCallId, toolName } = part
        return Result.succeed([
          { type: "tool-call", id: toolCallId, name: toolName, params: params.value, ...tagged(part) }
        ])
      }
      // The end of the budget cuts arguments in the middle.
      return finish === "length"
        ? Result.succeed([])
        : Result.fail(failure(at.provider, "InvalidResponse", "The arguments of a tool call are not JSON"))
    }
    default:
      return Result.succeed([])
  }
}

type Parts = Response.FilePartEncoded | Response.ToolCallPartEncoded | Source

type Source = Response.UrlSourcePartEncoded | Response.DocumentSourcePartEncoded

const tagged = (part: { readonly providerMetadata?: object }): { readonly metadata?: Response.ProviderMetadata } =>
  // The specification says that it is JSON.
  part.providerMetadata === undefined ? {} : { metadata: part.providerMetadata as Response.ProviderMetadata }

/** A file that the model made. One that is only an address has no place among the parts. */
const file = (mediaType: string, data: unknown): ReadonlyArray<Response.FilePartEncoded> => {
  const bytes = Json.isObject(data) && !(data instanceof Uint8Array) ? data["data"] : data
  if (bytes instanceof Uint8Array) return [{ type: "file", mediaType, data: Base64.encode(bytes) }]
  return typeof bytes === "string" ? [{ type: "file", mediaType, data: bytes }] : []
}

/** What a text cites. Providers may list the same pages beside it; an id tells that they are the same. */
const citations = (part: object, index: string): ReadonlyArray<Source> =>
  Json.array("citations" in part ? part.citations : undefined).flatMap((citation, at) => {
    const { source: cited } = Json.object(citation)
    // The specification has the same type here as for what is retrieved.
    return Json.isObject(cited) ? source(cited as unknown as Parameters<typeof source>[0], `${index}_${at}`) : []
  })

const source = (part: Extract<Content, { readonly type: "source" }>, index: string): ReadonlyArray<Source> => {
  if (part.sourceType === "url") return Sources.page(part.id || `source_${index}`, part.url, part.title)
  const { filename, id, mediaType, title } = part
  return [
    {
      type: "source",
      sourceType: "document",
      id,
      mediaType,
      title,
      ...(filename === undefined ? undefined : { fileName: filename })
    }
  ]
}

export const metadata = (
  response: Json.JsonObject,
  at: { readonly model: string; readonly now: number }
): Response.ResponseMetadataPartEncoded => {
  const { id, modelId, timestamp } = response
  const when = Option.getOrElse(
    // A date, or nothing: the specification has no other.
    Option.flatMap(Option.fromNullishOr(timestamp as DateTime.DateTime.Input | undefined), DateTime.make),
    () => DateTime.makeUnsafe(at.now)
  )
  return {
    type: "response-metadata",
    ...(typeof id === "string" && id !== "" ? { id } : undefined),
    modelId: Json.string(modelId) || at.model,
    timestamp: DateTime.formatIso(when)
  }
}

const failureOf = (
  finish: LanguageModelV4FinishReason,
  empty: boolean,
  at: Named
): ProviderError.APIError | undefined => {
  const unified = unifiedOf(finish)
  if (unified === "interrupted") return failure(at.provider, "StreamCut", "The answer was interrupted")
  if (unified === "error") return failure(at.provider, "ServerError", "The answer finished with an error")
  return unified === "content-filter" && empty
    ? failure(at.provider, "ContentPolicy", "The content filter withheld the answer")
    : undefined
}

const failure = (provider: string, reason: ProviderError.Reason, description: string): ProviderError.APIError =>
  new ProviderError.APIError({ provider, reason, description })

// Versions to come have more words.
const reasons: ReadonlySet<string> = new Set(["stop", "length", "content-filter", "tool-calls"])

const finish = (reason: LanguageModelV4FinishReason, usage: LanguageModelV3Usage): Response.FinishPartEncoded => {
  const unified = unifiedOf(reason)
  const { inputTokens, outputTokens } = Json.object(usage)
  const { cacheRead, cacheWrite, noCache, total } = Json.object(inputTokens)
  const { reasoning, text, total: written } = Json.object(outputTokens)
  return {
    type: "finish",
    reason: reasons.has(unified) ? (unified as Response.FinishReason) : "other",
    usage: {
      inputTokens: counted({ total, uncached: noCache, cacheRead, cacheWrite }),
      outputTokens: counted({ total: written, text, reasoning })
    }
  }
}

const unifiedOf = (finish: LanguageModelV4FinishReason): string =>
  Json.string(Json.object(finish)["unified"]) ?? "other"

const counted = <K extends string>(counts: { readonly [key in K]: unknown }): { readonly [key in K]?: number } =>
  Object.fromEntries(Object.entries(counts).filter((entry) => Json.count(entry[1]) !== undefined)) as {
    readonly [key in K]?: number
  }

const unseen = () => {
  const seen = new Set<string>()
  return (part: { readonly type: string; readonly id?: unknown }): boolean => {
    if (part.type !== "source" || typeof part.id !== "string") return true
    const isNew = !seen.has(part.id)
    seen.add(part.id)
    return isNew
  }
}

/** Reads the parts of one streamed answer, one after the other. */
export const reader = (at: Named & { readonly model: string; readonly now: number }) => {
  let emitted = false
  let sources = 0
  const isNew = unseen()
  // Calls of tools that the provider runs itself.
  const foreign = new Set<string>()
  return (
    part: LanguageModelV4StreamPart | LanguageModelV3StreamPart
  ): Result.Result<
    ReadonlyArray<LlmResponse.LlmStreamPart>,
    ProviderError.ProviderError | { readonly error: unknown }
  > => {
    switch (part.type) {
      case "text-end":
        return Result.succeed([
          { type: part.type, id: part.id, ...tagged(part) },
          ...citations(part, String(sources++)).filter(isNew)
        ])
      case "text-start":
      case "reasoning-start":
      case "reasoning-end":
        return Result.succeed([{ type: part.type, id: part.id, ...tagged(part) }])
      case "text-delta":
      case "reasoning-delta":
        emitted ||= part.delta !== ""
        return Result.succeed([{ type: part.type, id: part.id, delta: part.delta, ...tagged(part) }])
      case "tool-input-start":
        if (part.providerExecuted === true) foreign.add(part.id)
        return Result.succeed(
          foreign.has(part.id) ? [] : [{ type: "tool-params-start", id: part.id, name: part.toolName }]
        )
      case "tool-input-delta":
        return Result.succeed(
          foreign.has(part.id) ? [] : [{ type: "tool-params-delta", id: part.id, delta: part.delta }]
        )
      case "tool-input-end":
        return Result.succeed(foreign.has(part.id) ? [] : [{ type: "tool-params-end", id: part.id }])
      case "response-metadata":
        return Result.succeed([metadata({ ...part }, at)])
      case "finish": {
        const failed = failureOf(part.finishReason, !emitted, at)
        return failed === undefined ? Result.succeed([finish(part.finishReason, part.usage)]) : Result.fail(failed)
      }
      case "error":
        return Result.fail({ error: part.error })
      case "file":
      case "source":
      case "tool-call": {
        const parts = rest(part, String(sources++), undefined, at)
        emitted ||= Result.isSuccess(parts) && parts.success.length > 0
        return Result.map(parts, (some) => some.filter(isNew))
      }
      // `stream-start`, pings, raw chunks, and whatever else a later version has.
      default:
        return Result.succeed([])
    }
  }
}
