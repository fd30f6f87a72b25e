import { assert, describe, it } from "@effect/vitest"
import { DecisionLog, LlmRequest, LlmResilience, ResilienceEvent } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Layer, Logger, References, Stream } from "effect"
import { TestClock } from "effect/testing"
import { everyEvent, secret } from "../support/everyEvent.ts"

const request = LlmRequest.make({ prompt: "Hi" })

interface Line {
  readonly level: string
  readonly message: string
  readonly annotations: { readonly [key: string]: unknown }
}

const logged = Effect.fnUntraced(function* (
  steps: ReadonlyArray<ReadonlyArray<ScriptedProvider.Step>>,
  options?: DecisionLog.Options
) {
  const hub = ResilienceEvent.makeHub()
  const lines: Array<Line> = []
  const logger = Logger.make(({ fiber, logLevel, message }) => {
    lines.push({
      level: logLevel,
      message: String(message),
      annotations: fiber.getRef(References.CurrentLogAnnotations)
    })
  })
  const providers = yield* Effect.forEach(steps, (script, index) =>
    ScriptedProvider.make({ id: "abc"[index] ?? "z", script })
  )
  const [first, ...rest] = providers.map((provider) => ({ provider }))
  if (first === undefined) return yield* Effect.die("no steps")
  const resilience = yield* LlmResilience.make({ hub, steps: [first, ...rest] })
  yield* Layer.build(
    DecisionLog.layer(options).pipe(
      Layer.provide(Layer.succeed(LlmResilience.LlmResilience, resilience)),
      Layer.provide(Logger.layer([logger]))
    )
  )
  return { resilience, lines, hub }
})

describe("DecisionLog", () => {
  it.effect("writes no line while all is well", () =>
    Effect.gen(function* () {
      const { lines, resilience } = yield* logged([[ScriptedProvider.answer("Hello!")]])
      yield* resilience.generate(request)
      yield* Stream.runDrain(resilience.stream(request))

      assert.deepStrictEqual(lines, [])
    })
  )

  it.effect("writes one line for a fallback, with what one needs to understand it", () =>
    Effect.gen(function* () {
      const { lines, resilience } = yield* logged([
        [ScriptedProvider.fail("ModelNotFound", { status: 404, description: secret })],
        [ScriptedProvider.answer("Hello!")]
      ])
      yield* resilience.generate(request)
      const fallbacks = lines.filter(({ annotations }) => annotations["llm_resilience.event"] === "FellBack")

      assert.strictEqual(fallbacks.length, 1)
      assert.strictEqual(fallbacks[0]?.level, "Warn")
      assert.strictEqual(
        fallbacks[0]?.message,
        "request 1: asking b instead, a failed: APIError ModelNotFound after 0ms"
      )
      assert.deepStrictEqual(fallbacks[0]?.annotations, {
        "llm_resilience.event": "FellBack",
        "llm_resilience.request": 1,
        "llm_resilience.from": "a",
        "llm_resilience.to": "b",
        "llm_resilience.reason": "ModelNotFound",
        "llm_resilience.error": "ModelNotFound",
        "llm_resilience.status": 404,
        "llm_resilience.duration": 0
      })
    })
  )

  it.effect("tells the whole story when nobody could answer, as an error", () =>
    Effect.gen(function* () {
      const { lines, resilience } = yield* logged([
        [ScriptedProvider.fail("QuotaExhausted")],
        [ScriptedProvider.fail("Authentication")]
      ])
      yield* Effect.exit(resilience.generate(request))
      const last = lines.at(-1)

      assert.strictEqual(last?.level, "Error")
      assert.match(last?.message ?? "", /nobody could answer: a failed: .*QuotaExhausted.*; b failed: .*Authentication/)
    })
  )

  it.effect("carries the annotations of the application", () =>
    Effect.gen(function* () {
      const { lines, resilience } = yield* logged([
        [ScriptedProvider.fail("QuotaExhausted")],
        [ScriptedProvider.answer("Hello!")]
      ])
      yield* Effect.annotateLogs(resilience.generate(request), "tenant", "acme")

      assert.isAtLeast(lines.length, 2)
      assert.isTrue(lines.every(({ annotations }) => annotations["tenant"] === "acme"))
    })
  )

  it.effect("never repeats what a provider, a cause or a user wrote", () =>
    Effect.gen(function* () {
      const { hub, lines } = yield* logged([[ScriptedProvider.answer("Hello!")]])
      for (const event of Object.values(everyEvent)) hub.publish(event)
      const wanted = Object.values(DecisionLog.levels).filter((level) => level !== "None")

      assert.strictEqual(lines.length, wanted.length)
      assert.notInclude(JSON.stringify(lines), "SECRET")
      assert.notInclude(JSON.stringify(lines), "words of a prompt")
    })
  )

  it.effect("writes no more lines a second than it may, and says how many it left out", () =>
    Effect.gen(function* () {
      const { hub, lines } = yield* logged([[ScriptedProvider.answer("Hello!")]], { linesPerSecond: 3 })
      for (let count = 0; count < 10; count++) hub.publish(everyEvent.FellBack)
      assert.strictEqual(lines.length, 3)

      yield* TestClock.adjust("1 second")
      hub.publish(everyEvent.FellBack)

      assert.strictEqual(lines.length, 5)
      assert.strictEqual(lines[3]?.message, "7 decisions were not logged: more than 3 of a level in a second")
    })
  )

  it.effect("lets no warnings crowd out an error", () =>
    Effect.gen(function* () {
      const { hub, lines } = yield* logged([[ScriptedProvider.answer("Hello!")]], { linesPerSecond: 3 })
      for (let count = 0; count < 10; count++) hub.publish(everyEvent.FellBack)
      hub.publish(everyEvent.RequestFailed)

      assert.include(lines.at(-1)?.message, "nobody could answer")
    })
  )

  it.effect("takes other levels", () =>
    Effect.gen(function* () {
      const { hub, lines } = yield* logged([[ScriptedProvider.answer("Hello!")]], {
        levels: { FellBack: "None", RequestAnswered: "Debug" }
      })
      yield* Effect.sync(() => {
        hub.publish(everyEvent.FellBack)
        hub.publish(everyEvent.RequestAnswered)
      }).pipe(Effect.provideService(References.MinimumLogLevel, "All"))

      assert.deepStrictEqual(
        lines.map(({ level }) => level),
        ["Debug"]
      )
    })
  )
})
