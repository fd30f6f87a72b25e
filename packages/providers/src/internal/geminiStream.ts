import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Response from "effect/ai/Response"
import * as Result from "effect/Result"
import { Blocks } from "./blocks.ts"
import { type Decoder, ofObjects } from "./events.ts"
import * as Answer from "./geminiAnswer.ts"
import * as Json from "./json.ts"
import type { Reply } from "./transport.ts"

type Parts = Array<LlmResponse.LlmStreamPart>

/**
 * Reads the answer of generateContent: one chunk, or the list of chunks that a stream is when nobody asked for events. What is true of a
 * stream's chunks is true of the only one, so there is one reader for both.
 */
export const read = (
  json: unknown,
  reply: Reply,
  answerTool: string | undefined
): Result.Result<ReadonlyArray<Response.PartEncoded>, ProviderError.ProviderError> => {
  const chunks: ReadonlyArray<unknown> = Array.isArray(json) ? json : [json]
  const parts: Parts = []
  const reading = chunkReader(reply, answerTool)
  for (const chunk of chunks) {
    if (!isChunk(chunk)) return Result.fail(reply.fail("InvalidResponse", "The answer is not one of generateContent"))
    const failure = reading.chunk(chunk, parts)
    if (failure !== undefined) return Result.fail(failure)
  }
  const failure = reading.end(parts)
  return failure === undefined ? Result.succeed(LlmResponse.collect(parts)) : Result.fail(failure)
}

const isChunk = (json: unknown): json is Json.JsonObject =>
  Json.isObject(json) &&
  (Array.isArray(json["candidates"]) || Json.isObject(json["promptFeedback"]) || Json.isObject(json["usageMetadata"]))

/** Decodes the chunks of streamGenerateContent. `answerTool` is the tool through which the model was asked for JSON. */
export const decoder = (reply: Reply, answerTool: string | undefined): Decoder => {
  const reading = chunkReader(reply, answerTool)
  return {
    // A finish reason may stand in the middle, when the model runs code of its own: only the end of the stream is the end.
    isDone: () => false,
    end: reading.end,
    event: ofObjects(reply, reading.chunk)
  }
}

const chunkReader = (reply: Reply, answerTool: string | undefined) => {
  const blocks = new Blocks(answerTool)
  let named = false
  let open: "text" | "reasoning" | undefined
  let count = 0
  let calls = 0
  let finish: string | undefined
  let last: Json.JsonObject = {}
  let usage: unknown = undefined
  let grounding: ReadonlyArray<Response.UrlSourcePartEncoded> = []

  const enter = (kind: "text" | "reasoning", parts: Parts): string => {
    if (open !== kind) {
      leave(parts)
      count++
      open = kind
    }
    return String(count)
  }

  const leave = (parts: Parts): void => {
    if (open !== undefined) blocks.close(String(count), parts)
    open = undefined
  }

  const part = (value: Json.JsonObject, parts: Parts): void => {
    const { functionCall, inlineData, text, thought, thoughtSignature } = value
    const metadata =
      typeof thoughtSignature === "string" && thoughtSignature !== "" ? { gemini: { thoughtSignature } } : undefined
    if (Json.isObject(functionCall)) return call(functionCall, metadata, parts)
    if (Json.isObject(inlineData)) {
      const { data, mimeType } = inlineData
      if (typeof data !== "string") return
      leave(parts)
      blocks.emitted = true
      parts.push({ type: "file", mediaType: Json.string(mimeType) ?? "application/octet-stream", data })
      return
    }
    if (typeof text !== "string") return
    const kind = thought === true ? "reasoning" : "text"
    if (text === "" && metadata === undefined) return
    const key = enter(kind, parts)
    if (kind === "reasoning") blocks.reasoning(key, text, parts)
    else if (text === "") blocks.startText(key, parts)
    else blocks.text(key, text, parts)
    if (metadata !== undefined) blocks.tag(key, metadata)
  }

  const call = (functionCall: Json.JsonObject, metadata: Response.ProviderMetadata | undefined, parts: Parts): void => {
    const name = Json.string(functionCall["name"]) ?? ""
    const params = functionCall["args"] ?? {}
    leave(parts)
    count++
    const id = Json.string(functionCall["id"]) || `call_${calls}`
    if (name !== answerTool) calls++
    blocks.tool(String(count), { id, name, params, metadata }, parts)
    blocks.params(String(count), Json.textOf(params), parts)
    blocks.close(String(count), parts)
  }

  return {
    chunk: (json: Json.JsonObject, parts: Parts): ProviderError.ProviderError | undefined => {
      if (!named && (typeof json["responseId"] === "string" || typeof json["modelVersion"] === "string")) {
        named = true
        parts.push(Answer.metadata(json, reply))
      }
      if (Json.isObject(json["usageMetadata"])) usage = json["usageMetadata"]
      const candidates = Json.array(json["candidates"])
      const blocked = candidates.length === 0 ? Answer.blocked(json["promptFeedback"], reply) : undefined
      if (blocked !== undefined) return blocked
      const candidate = Json.object(candidates.find((one) => (Json.object(one)["index"] ?? 0) === 0))
      for (const value of Json.array(Json.object(candidate["content"])["parts"])) part(Json.object(value), parts)
      const cited = Answer.sources(candidate)
      if (cited.length > 0) grounding = cited
      const reason = Json.string(candidate["finishReason"]) ?? ""
      if (reason !== "" && reason !== "FINISH_REASON_UNSPECIFIED") {
        finish = reason
        last = candidate
      }
      return undefined
    },
    end: (parts: Parts): ProviderError.ProviderError | undefined => {
      if (finish === undefined) return reply.cut(undefined)
      const failure = Answer.failureOf(finish, last, !blocks.emitted, reply)
      if (failure !== undefined) return failure
      leave(parts)
      parts.push(...grounding, {
        type: "finish",
        reason: Answer.reasonOf(finish, calls > 0),
        usage: Answer.usageOf(usage)
      })
      return undefined
    }
  }
}
