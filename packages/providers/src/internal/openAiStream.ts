import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Option from "effect/Option"
import type { Decoder } from "./events.ts"
import * as Json from "./json.ts"
import * as Answer from "./openAiAnswer.ts"
import { isError, type Reply } from "./transport.ts"

type Parts = Array<LlmResponse.LlmStreamPart>

interface Call {
  readonly id: string
  readonly name: string
  readonly serverId: string
  text: string
}

/** Decodes the chunks of a streamed chat completion. */
export const decoder = (reply: Reply): Decoder => {
  let named = false
  let textOpen = false
  let reasoningOpen = false
  let blocks = 0
  let sources = 0
  let refusal = ""
  let finish: unknown = undefined
  let usage: unknown = undefined
  let empty = true
  let done = false
  const calls = new Map<number, Call>()
  const closed: Array<Call> = []

  const text = (delta: string, parts: Parts): void => {
    empty = false
    if (!textOpen) {
      closeBlocks(parts)
      textOpen = true
      parts.push({ type: "text-start", id: String(++blocks) })
    }
    parts.push({ type: "text-delta", id: String(blocks), delta })
  }

  const reasoning = (delta: string, parts: Parts): void => {
    if (!reasoningOpen) {
      closeBlocks(parts)
      reasoningOpen = true
      parts.push({ type: "reasoning-start", id: String(++blocks) })
    }
    parts.push({ type: "reasoning-delta", id: String(blocks), delta })
  }

  const closeBlocks = (parts: Parts): void => {
    if (textOpen) parts.push({ type: "text-end", id: String(blocks) })
    if (reasoningOpen) parts.push({ type: "reasoning-end", id: String(blocks) })
    textOpen = reasoningOpen = false
  }

  const toolCall = (value: unknown, position: number, parts: Parts): void => {
    const fragment = Json.object(value)
    const { name, arguments: args } = Json.object(fragment["function"])
    const serverId = Json.string(fragment["id"]) ?? ""
    const index = Json.count(fragment["index"]) ?? position
    let call = calls.get(index)
    // Some servers number all calls of a turn 0: another id is another call.
    if (
      call !== undefined &&
      serverId !== "" &&
      serverId !== call.serverId &&
      typeof name === "string" &&
      name !== ""
    ) {
      closed.push(call)
      call = undefined
    }
    if (call === undefined) {
      if (typeof name !== "string" || name === "") return
      empty = false
      closeBlocks(parts)
      call = { id: serverId || `call_${calls.size + closed.length}`, name, serverId, text: "" }
      calls.set(index, call)
      parts.push({ type: "tool-params-start", id: call.id, name })
    }
    const delta = typeof args === "string" ? args : Json.isObject(args) ? Json.textOf(args) : ""
    if (delta === "") return
    call.text += delta
    parts.push({ type: "tool-params-delta", id: call.id, delta })
  }

  const closeCalls = (parts: Parts): ProviderError.ProviderError | undefined => {
    for (const call of [...closed, ...calls.values()]) {
      parts.push({ type: "tool-params-end", id: call.id })
      const params = Answer.parametersOf(call.text)
      if (Option.isNone(params)) {
        if (finish === "length") continue
        return reply.fail("InvalidResponse", "The arguments of a tool call are not JSON")
      }
      parts.push({ type: "tool-call", id: call.id, name: call.name, params: params.value })
    }
    return undefined
  }

  const complete = (parts: Parts): ProviderError.ProviderError | undefined => {
    const refused = Answer.refusedOf({ refusal, finish, empty }, reply)
    if (refused !== undefined) return refused
    closeBlocks(parts)
    const broken = closeCalls(parts)
    if (broken !== undefined) return broken
    done = true
    parts.push({
      type: "finish",
      reason: Answer.reasonOf(finish, calls.size > 0),
      usage: Answer.usageOf(usage)
    })
    return undefined
  }

  const chunk = (json: Json.JsonObject, parts: Parts): ProviderError.ProviderError | undefined => {
    // Every chunk names the answer; once is enough.
    if (!named && typeof json["id"] === "string" && json["id"] !== "") {
      named = true
      parts.push(Answer.metadata(json, reply))
    }
    const counted = json["usage"] ?? Json.object(json["x_groq"])["usage"]
    if (counted !== undefined && counted !== null) usage = counted
    // The chunks of several choices (`n`) come mixed; the first choice is the answer.
    const choice = Json.object(Json.array(json["choices"]).find((one) => (Json.object(one)["index"] ?? 0) === 0))
    const delta = choice["delta"]
    if (Json.isObject(delta)) {
      const thought = Answer.reasoningOf(delta)
      if (thought !== "") reasoning(thought, parts)
      const said = Answer.textOf(delta["content"])
      if (said !== "") text(said, parts)
      const fragments = delta["tool_calls"]
      if (delta["annotations"] !== undefined) {
        const cited = Answer.sources(delta, sources)
        sources += cited.length
        parts.push(...cited)
      }
      if (Array.isArray(fragments)) fragments.forEach((fragment, position) => toolCall(fragment, position, parts))
      if (typeof delta["refusal"] === "string") refusal += delta["refusal"]
    }
    if (Answer.isFinish(choice["finish_reason"])) {
      finish = choice["finish_reason"]
      const failure = Answer.failureOf(finish, reply)
      if (failure !== undefined) return failure
    }
    // The usage is the last thing that a server sends. Whoever waits for `[DONE]` waits in vain for some servers.
    return finish !== undefined && usage !== undefined ? complete(parts) : undefined
  }

  return {
    isDone: () => done,
    event: (name, data, parts) => {
      if (data.startsWith("[DONE]")) return finish === undefined ? reply.cut(undefined) : complete(parts)
      const json = Option.getOrUndefined(Json.parse(data))
      if (name === "error" || isError(json) || isError(Json.array(Json.object(json)["choices"])[0])) {
        return reply.classify(data)
      }
      return Json.isObject(json)
        ? chunk(json, parts)
        : reply.fail("InvalidResponse", `An event is not a chunk of a chat completion: ${data.slice(0, 4000)}`)
    },
    end: (parts) => (finish === undefined ? reply.cut(undefined) : complete(parts))
  }
}
