import * as Effect from "effect/Effect"
import type * as Duration from "effect/Duration"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { Attempt } from "../Attempt.ts"
import type { Asking, EmergencyCache, Hit, PolicyOptions } from "../EmergencyCache.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import * as LlmResponse from "../LlmResponse.ts"
import type * as Notice from "../Notice.ts"
import * as Provider from "../Provider.ts"
import { open, opened } from "./opening.ts"

/** A provider whose answers are stored, and for which stored ones stand in as the mode says. */
export const standIn = (
  self: Provider.Provider,
  cache: EmergencyCache["Service"],
  asking: Asking,
  {
    mode,
    slowAfter,
    tells,
    translate
  }: {
    readonly mode: NonNullable<PolicyOptions["mode"]>
    readonly slowAfter: Duration.Duration
    readonly tells: boolean
    readonly translate: (typeof Notice.Translate)["Service"]
  }
): Provider.Provider => {
  const servedAs = (
    hit: Hit,
    because: "unavailable" | "slow" | "fresh",
    attempts: ReadonlyArray<Attempt>
  ): LlmResponse.LlmResponse => {
    const { age, content, contributors, degraded, match, model, provider, question, similarity, stale } = hit
    const facts = { _tag: "Cached" as const, age, because }
    return LlmResponse.make({
      content,
      served: {
        provider,
        model,
        from: "cache",
        attempts,
        ...(contributors === undefined ? {} : { contributors }),
        ...(degraded === undefined ? {} : { degraded }),
        match,
        similarity,
        ...(question === undefined || !tells ? {} : { question }),
        age,
        stale,
        notice: { ...facts, message: translate(facts) }
      }
    })
  }

  const instead = (
    request: LlmRequest,
    error: Provider.Failure
  ): Effect.Effect<LlmResponse.LlmResponse, Provider.Failure> =>
    error._tag !== "LlmUnavailable" || request.stepsLeft > 0
      ? Effect.fail(error)
      : Effect.flatMap(
          cache.find(request, asking),
          Option.match({
            onNone: () => Effect.fail(error),
            onSome: (hit) => Effect.succeed(servedAs(hit, "unavailable", error.attempts))
          })
        )

  const readFirst = (request: LlmRequest): Effect.Effect<LlmResponse.LlmResponse | undefined> =>
    Effect.map(cache.find(request, { ...asking, urgency: "convenience" }), (found) =>
      Option.isSome(found) && !found.value.stale ? servedAs(found.value, "fresh", []) : undefined
    )

  const ask = (request: LlmRequest): Effect.Effect<LlmResponse.LlmResponse, Provider.Failure> =>
    self.generate(request).pipe(
      Effect.tap((response) => cache.remember(request, response, asking)),
      Effect.catch((error) => instead(request, error))
    )

  // Serves a stored answer when `opening` takes longer than it should. The slow one is stopped behind the caller's back.
  const unlessSlow = <A>(
    request: LlmRequest,
    opening: Effect.Effect<A, Provider.Failure>,
    stored: (response: LlmResponse.LlmResponse) => Effect.Effect<A>
  ): Effect.Effect<A, Provider.Failure> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Effect.forkDetach(restore(opening), { startImmediately: true }), (fiber) =>
        Effect.onInterrupt(
          restore(
            Effect.flatMap(
              Effect.raceFirst(
                Effect.asSome(Fiber.await(fiber)),
                Effect.as(Effect.sleep(slowAfter), Option.none<Exit.Exit<A, Provider.Failure>>())
              ),
              Option.match({
                onSome: (exit) => exit,
                onNone: () =>
                  Effect.flatMap(cache.find(request, asking), (found) => {
                    // It may have answered while the cache was asked.
                    if (Option.isNone(found) || fiber.pollUnsafe() !== undefined) return Fiber.join(fiber)
                    fiber.interruptUnsafe()
                    return stored(servedAs(found.value, "slow", []))
                  })
              })
            )
          ),
          () => Fiber.interrupt(fiber)
        )
      )
    )

  const generate = (request: LlmRequest): Effect.Effect<LlmResponse.LlmResponse, Provider.Failure> => {
    switch (request.mayCache ? mode : "if-unavailable") {
      case "if-unavailable":
        return ask(request)
      case "read-through":
        return Effect.flatMap(readFirst(request), (response) =>
          response === undefined ? ask(request) : Effect.succeed(response)
        )
      case "stale-if-slow":
        return unlessSlow(request, ask(request), Effect.succeed)
    }
  }

  const replayed = (response: LlmResponse.LlmResponse): Stream.Stream<LlmResponse.LlmStreamPart> =>
    Stream.concat(Stream.succeed({ type: "served", served: response.served }), Provider.replay(response))

  // The parts are kept until the end, so that the whole answer can be stored; of one that is too long, none.
  const remembered = (request: LlmRequest): Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure> =>
    Stream.transformPull(self.stream(request), (pull) =>
      Effect.sync(() => {
        const parts: Array<LlmResponse.LlmStreamPart> = []
        let length = 0
        return Effect.tap(pull, (more) => {
          if (length > maxStreamed) return Effect.void
          for (const part of more) {
            length += "delta" in part ? part.delta.length + 32 : 256
            parts.push(part)
          }
          if (length > maxStreamed) parts.length = 0
          else if (more.at(-1)?.type === "finish") {
            const record = parts.findLast((part) => part.type === "served")?.served
            const served = record ?? LlmResponse.servedBy(self)
            return cache.remember(request, LlmResponse.make({ content: LlmResponse.collect(parts), served }), asking)
          }
          return Effect.void
        })
      })
    )

  const streamed = (request: LlmRequest): Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure> =>
    Stream.suspend(() => {
      let started = false
      return remembered(request).pipe(
        Stream.map((part) => {
          started ||= part.type !== "served" && part.type !== "response-metadata"
          return part
        }),
        // Once the caller saw something, a stored answer would be a second one.
        Stream.catch((error) =>
          started ? Stream.fail(error) : Stream.unwrap(Effect.map(instead(request, error), replayed))
        )
      )
    })

  const stream = (request: LlmRequest): Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure> => {
    switch (request.mayCache ? mode : "if-unavailable") {
      case "if-unavailable":
        return streamed(request)
      case "read-through":
        return Stream.unwrap(
          Effect.map(readFirst(request), (response) =>
            response === undefined ? streamed(request) : replayed(response)
          )
        )
      case "stale-if-slow":
        return opened((scope) =>
          unlessSlow(request, open(self.id, streamed(request), scope), (response) =>
            open(self.id, replayed(response), scope).pipe(Effect.orDie)
          )
        )
    }
  }

  return { ...self, keepsDeadline: false, generate, stream }
}

/** Of a stream with more characters than this nothing is kept. */
const maxStreamed = 1_048_576
