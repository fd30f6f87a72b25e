import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import type * as HttpClientError from "effect/http/HttpClientError"
import * as Option from "effect/Option"
import * as Pull from "effect/Pull"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Frames, Framing } from "./framing.ts"
import * as Json from "./json.ts"
import * as Transport from "./transport.ts"

type Part = LlmResponse.LlmStreamPart

/**
 * Turns the events of one streamed answer into parts. It has state and is made anew for each answer: a pure step function would
 * allocate a state per token, which is most of what a token costs.
 */
export interface Decoder {
  /** Adds what an event means to `parts`. Gives the error that ends the stream, if it is one. */
  readonly event: (name: string, data: string, parts: Array<Part>) => ProviderError.ProviderError | undefined
  /** The events are over, politely or not: adds the rest of a complete answer. */
  readonly end: (parts: Array<Part>) => ProviderError.ProviderError | undefined
  /** Whether the answer is complete, so that nothing after it matters. */
  readonly isDone: () => boolean
}

/** Makes what decodes an event from what reads the object in it. `[DONE]`, with which gateways end the streams of any protocol, says nothing. */
export const ofObjects =
  (
    reply: Transport.Reply,
    read: (json: Json.JsonObject, parts: Array<Part>, name: string) => ProviderError.ProviderError | undefined
  ): Decoder["event"] =>
  (name, data, parts) => {
    const json = Option.getOrUndefined(Json.parse(data))
    if (name === "error" || Transport.isError(json)) return reply.classify(data)
    if (Json.isObject(json)) return read(json, parts, name)
    return data.startsWith("[DONE]")
      ? undefined
      : reply.fail("InvalidResponse", `An event is not JSON: ${data.slice(0, 4000)}`)
  }

/** How a protocol streams: how its bytes become events, and its events parts. */
export interface Streaming {
  readonly framing: Framing
  readonly decoder: (reply: Transport.Reply) => Decoder
  /** Reads the whole answer of a server that does not stream. */
  readonly read: Transport.Read
}

/** Asks for a streamed answer. How it is read is asked for only after the request is written. */
export const listen = (
  endpoint: Transport.Endpoint,
  write: () => Json.JsonObject,
  streaming: () => Streaming
): Stream.Stream<Part, ProviderError.ProviderError> =>
  Stream.unwrap(
    Effect.gen(function* () {
      // A body that was read to its end is let go. Otherwise the connection closes with it, which aborts the request.
      const connection = Scope.makeUnsafe()
      const body = Scope.forkUnsafe(connection)
      let reading: Reading | undefined = undefined
      yield* Scope.addFinalizerExit(yield* Effect.scope, (exit) => {
        const close = (over: boolean) => Scope.close(over ? body : connection, exit)
        return reading?.state() === "complete"
          ? Effect.asVoid(Effect.forkDetach(Effect.flatMap(drain(reading.frames), close)))
          : close(reading?.state() === "over")
      })
      const reply = yield* Scope.provide(Transport.post(endpoint, "streamed", write), connection)
      reading = yield* Scope.provide(read(reply, endpoint, streaming()), body)
      return Stream.fromPull(Effect.succeed(reading.parts))
    })
  )

// A connection is kept alive only when its answer was read to the end, and the end of the connection's answer follows the last event
// within moments. Nobody waits for it: it is read after the stream is over, for as long as this by the clock of the sockets. Gives whether
// the end came.
const patience = "100 millis"

const drain = (frames: Frames): Effect.Effect<boolean> =>
  Effect.forever(frames.more).pipe(
    Effect.timeoutOption(patience),
    Effect.matchCause({ onFailure: Pull.isDoneCause, onSuccess: () => false }),
    Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
  )

/** A stream that is being read: its frames, the parts in it, and whether the answer is complete although the body may go on, or the body is over. */
interface Reading {
  readonly frames: Frames
  readonly parts: Pull.Pull<Arr.NonEmptyReadonlyArray<Part>, ProviderError.ProviderError, void>
  readonly state: () => "unfinished" | "complete" | "over"
}

const read = (
  reply: Transport.Reply,
  endpoint: Transport.Endpoint,
  streaming: Streaming
): Effect.Effect<Reading, never, Scope.Scope> => {
  const { maxEventBytes, maxResponseBytes, maxStreamBytes } = endpoint.bounds
  const decoder = streaming.decoder(reply)
  // The headers are a sign of life, long before a model that thinks says its first word.
  let parts: Array<Part> = [
    {
      type: "response-metadata",
      modelId: reply.model,
      timestamp: DateTime.formatIso(DateTime.makeUnsafe(reply.now))
    }
  ]
  let failure: ProviderError.ProviderError | undefined
  let ended = false
  let over = false

  const beyond = Effect.suspend(() => Effect.fail(Transport.tooLong(reply, maxStreamBytes)))
  return Effect.map(Transport.bodyOf(reply.response, maxStreamBytes, beyond), (body) => {
    const frames = streaming.framing(body, {
      event: (name, data) => {
        if (failure === undefined && !decoder.isDone()) failure = decoder.event(name, data, parts)
      },
      broken: (description) => {
        failure ??= reply.fail("InvalidResponse", description)
      },
      maxEventBytes,
      maxDocumentBytes: maxResponseBytes
    })

    const endLastEvent = (): ProviderError.ProviderError | undefined => {
      frames.end()
      const unended = failure
      failure = undefined
      return unended
    }

    const finish = (broken: HttpClientError.HttpClientError | undefined): void => {
      ended = true
      over = broken === undefined
      if (failure !== undefined || decoder.isDone()) return
      const document = frames.document()
      if (document !== undefined && broken === undefined) {
        const content = Transport.readDocument(document, reply, streaming.read)
        if (Result.isFailure(content)) failure = content.failure
        else parts.push(...content.success.flatMap(asStreamed))
        return
      }
      if (broken === undefined) {
        const unended = endLastEvent()
        // What is unreadable at the very end was cut, not malformed: whether that matters, the decoder knows.
        if (unended !== undefined && !(unended._tag === "APIError" && unended.reason === "InvalidResponse"))
          failure = unended
        if (failure !== undefined || decoder.isDone()) return
      }
      const incomplete = decoder.end(parts)
      if (incomplete !== undefined) failure = broken === undefined ? incomplete : reply.cut(broken)
    }

    const next: Reading["parts"] = Effect.suspend(() => {
      if (Arr.isArrayNonEmpty(parts)) {
        const out = parts
        parts = []
        return Effect.succeed(out)
      }
      if (failure !== undefined) return Effect.fail(failure)
      return ended || decoder.isDone() ? Cause.done() : more
    })

    const more: Reading["parts"] = Effect.matchEffect(frames.more, {
      onSuccess: () => next,
      onFailure: (error) => {
        if (ProviderError.isProviderError(error)) failure ??= error
        else finish(Cause.isDone(error) || Transport.isEmpty(error) ? undefined : error)
        return next
      }
    })

    return {
      frames,
      parts: next,
      state: () => (over ? "over" : decoder.isDone() && !ended ? "complete" : "unfinished")
    }
  })
}

type Whole = LlmResponse.LlmResponse["content"][number]

const asStreamed = (part: Whole, index: number): ReadonlyArray<Part> => {
  const id = String(index)
  switch (part.type) {
    case "text":
      return [
        { type: "text-start", id },
        { type: "text-delta", id, delta: part.text },
        { type: "text-end", id }
      ]
    case "reasoning":
      return [
        { type: "reasoning-start", id },
        { type: "reasoning-delta", id, delta: part.text },
        { type: "reasoning-end", id, metadata: part.metadata }
      ]
    default:
      return [part]
  }
}
