/**
 * Writes one structured log line for each decision that somebody may want to understand at three in the morning, and none while all is well.
 *
 * A line has a sentence (`ResilienceEvent.format`) and the facts as annotations that begin with `llm_resilience.` (`ResilienceEvent.facts`): the
 * number of the request, who was left and who was asked, the kind of the error, its HTTP status, the id that the provider gave to the failed
 * request, and times in seconds. It is written in the fiber of the request, so annotations and the trace of the application are on it too.
 *
 * **Privacy**
 *
 * What a provider wrote is left out: it may quote the prompt, or be the answer. So is everything of a cause but the names in it.
 *
 * **Example** (The line of a fallback)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Logger } from "effect"
 * import { DecisionLog, LlmResilience, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const down = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "down",
 *   model: "large",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "down", reason: "ServerError", description: "oops", status: 500 }))
 * }))
 * const up = Layer.succeed(Provider.Provider, Provider.make({
 *   id: "up",
 *   model: "small",
 *   generate: () => Effect.succeed({ content: LlmResponse.textContent("Hello!") })
 * }))
 * const policy = LlmResilience.standard({ retry: "off" })
 * const resilient = LlmResilience.layer({ policy, steps: [{ provider: down }, { provider: up }] })
 *
 * const lines: Array<string> = []
 * const logger = Logger.make(({ logLevel, message }) => {
 *   lines.push(`${logLevel}: ${message}`.replace(/[0-9]+ms/, "5ms"))
 * })
 *
 * await LlmResilience.generate({ prompt: "Hi" }).pipe(
 *   Effect.provide(DecisionLog.layer().pipe(Layer.provideMerge(resilient))),
 *   Effect.provide(Logger.layer([logger])),
 *   Effect.runPromise
 * )
 *
 * lines[0]?.startsWith("Warn: request 1: asking up instead, down failed: APIError ServerError after") // => true
 * lines.length // => 1
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as LogLevel from "effect/LogLevel"
import { monotonic } from "./internal/monotonic.ts"
import { LlmResilience } from "./LlmResilience.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * At which level each event is logged. `None` means no line.
 *
 * @category models
 * @since 0.1.0
 */
export type Levels = { readonly [T in ResilienceEvent.ResilienceEvent["_tag"]]: LogLevel.Severity | "None" }

/**
 * The levels that hold unless you override them.
 *
 * **Details**
 *
 * What a person may have to act on is a warning or an error; what the library dealt with, and what follows from an earlier line, is information.
 *
 * @category constants
 * @since 0.1.0
 */
export const levels: Levels = {
  RequestStarted: "None",
  RequestAnswered: "None",
  RequestFailed: "Error",
  RequestAbandoned: "None",
  AttemptStarted: "None",
  AttemptSucceeded: "None",
  // What came of it is in the line of the fallback, or of the failed request.
  AttemptFailed: "None",
  AttemptSuperseded: "None",
  StepSkipped: "None",
  FellBack: "Warn",
  Called: "None",
  Retried: "Info",
  Throttled: "Info",
  LimitStoreFailed: "Error",
  Shed: "Warn",
  Hedged: "Info",
  BudgetExhausted: "Warn",
  ChaosInjected: "Info",
  Committed: "None",
  Recovered: "Warn",
  RecoveryFailed: "Error",
  CacheHit: "Warn",
  CacheMissed: "None",
  CacheStored: "None",
  CacheRejected: "None",
  CacheFailed: "Error",
  SimilarRefused: "None",
  EmbedderFailed: "Warn",
  CacheShadowed: "None",
  Deferred: "Warn",
  DeferralRefused: "Error",
  DeferredEnded: "Info",
  DeferredStoreFailed: "Error",
  NoticeGiven: "None",
  DefectCaught: "Error",
  CircuitChanged: "Warn",
  CooledDown: "Warn",
  Isolated: "Error",
  HealthChanged: "Warn",
  HealthChecked: "None"
}

/**
 * Options of the layer.
 *
 * **Details**
 *
 * - `levels`: the levels that differ from {@link levels}.
 * - `linesPerSecond`: the most lines of each level in one second, 100 by default: the warnings of an outage do not crowd out its errors. The first
 *   line after that says how many were left out.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly levels?: Partial<Levels> | undefined
  readonly linesPerSecond?: number | undefined
}

/**
 * Layer that logs the decisions of {@link LlmResilience}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<never, never, LlmResilience> => {
  const linesPerSecond = options?.linesPerSecond ?? 100
  if (!(linesPerSecond >= 1)) {
    throw new RangeError(`DecisionLog.layer: linesPerSecond must be at least 1, got ${linesPerSecond}`)
  }
  const table: Levels = { ...levels, ...options?.levels }
  return Layer.effectDiscard(
    Effect.gen(function* () {
      const service = yield* LlmResilience
      const context = yield* Effect.context<never>()
      const clock = yield* Clock.Clock
      let second = -Infinity
      let leftOut = 0
      const lines = new Map<LogLevel.Severity, number>()

      const write = (line: Effect.Effect<void>): void => {
        // The loggers of the layer, unless the request has its own, and the annotations and the span of the request.
        const fiber = Fiber.getCurrent()
        Effect.runForkWith(fiber === undefined ? context : Context.merge(context, fiber.context))(line)
      }

      const log = (event: ResilienceEvent.ResilienceEvent): void => {
        const level = table[event._tag]
        if (level === "None") return
        const now = monotonic(clock)
        if (now - second >= 1000) {
          second = now
          lines.clear()
        }
        const line = (lines.get(level) ?? 0) + 1
        lines.set(level, line)
        if (line > linesPerSecond) {
          leftOut++
          return
        }
        if (leftOut > 0) {
          write(
            Effect.logWarning(
              `${leftOut} decisions were not logged: more than ${linesPerSecond} of a level in a second`
            )
          )
          leftOut = 0
        }
        write(
          Effect.annotateLogs(Effect.logWithLevel(level)(ResilienceEvent.format(event)), ResilienceEvent.facts(event))
        )
      }
      // The keys of the table are its tags; the compiler knows them as strings.
      const tags = Object.keys(table) as Array<keyof Levels>
      yield* service.listen(
        log,
        tags.filter((tag) => table[tag] !== "None")
      )
    })
  )
}
