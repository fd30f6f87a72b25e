import { assert, describe, it } from "@effect/vitest"
import {
  LlmRequest,
  LlmResilience,
  LlmResponse,
  Notice,
  Policy,
  Provider,
  type ResilienceConfig,
  ResilienceEvent
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Config, ConfigProvider, DateTime, Duration, Effect, Exit, Fiber, Layer, Redacted, Stream } from "effect"
import { TestClock } from "effect/testing"

const step = (id: string, ...script: ReadonlyArray<ScriptedProvider.Step>) =>
  ScriptedProvider.layer({ id, script: script.length === 0 ? [ScriptedProvider.answer(`from ${id}`)] : script })

const request = LlmRequest.make({ prompt: "Hi" })

/** Collects the events of an effect. */
const listening = Effect.fnUntraced(function* <A, E>(
  resilience: LlmResilience.LlmResilience,
  effect: Effect.Effect<A, E>
) {
  const events: Array<ResilienceEvent.ResilienceEvent> = []
  const listener = yield* Effect.forkChild(
    Stream.runForEach(resilience.events, (event) => Effect.sync(() => events.push(event))),
    { startImmediately: true }
  )
  yield* Effect.yieldNow
  yield* Effect.exit(effect)
  yield* Effect.yieldNow
  yield* Effect.yieldNow
  yield* Fiber.interrupt(listener)
  return events
})

describe("LlmResilience", () => {
  it.effect("answers although the primary is down", () =>
    Effect.gen(function* () {
      const response = yield* LlmResilience.generate({ prompt: "Hi" })

      assert.strictEqual(response.text, "from backup")
      assert.strictEqual(response.served.provider, "backup")
    }).pipe(
      Effect.provide(
        LlmResilience.layer({
          steps: [{ provider: step("primary", ScriptedProvider.fail("Authentication")) }, { provider: step("backup") }]
        })
      )
    )
  )

  it.effect("streams although the primary is down", () =>
    Effect.gen(function* () {
      const parts = yield* Stream.runCollect(LlmResilience.stream({ prompt: "Hi" }))

      assert.strictEqual(parts[0]?.type === "served" ? parts[0].served.provider : undefined, "backup")
      assert.strictEqual(
        LlmResponse.make({ content: LlmResponse.collect(parts), served: servedBy("backup") }).text,
        "from backup"
      )
    }).pipe(
      Effect.provide(
        LlmResilience.layer({
          steps: [{ provider: step("primary", ScriptedProvider.fail("Authentication")) }, { provider: step("backup") }]
        })
      )
    )
  )

  it.effect("asks steps by rising priority, and those without one in the order of the list", () =>
    Effect.gen(function* () {
      const response = yield* LlmResilience.generate({ prompt: "Hi" })

      assert.strictEqual(response.text, "from a")
    }).pipe(
      Effect.provide(
        LlmResilience.layer({
          steps: [
            { provider: step("c"), priority: 3 },
            { provider: step("b"), priority: 2 },
            { provider: step("a"), priority: 1 }
          ]
        })
      )
    )
  )

  it.effect("gives requests without a deadline the standing one", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Effect.flip(LlmResilience.generate({ prompt: "Hi" })))
      yield* TestClock.adjust("5 seconds")

      assert.strictEqual((yield* Fiber.join(fiber))._tag, "LlmUnavailable")
    }).pipe(
      Effect.provide(
        LlmResilience.layer({ steps: [{ provider: step("a", ScriptedProvider.hang) }], deadline: "5 seconds" })
      )
    )
  )

  it.effect("lets a step bring its own policy", () =>
    Effect.gen(function* () {
      const shouted = yield* LlmResilience.generate({ prompt: "Hi" })

      assert.strictEqual(shouted.text, "FROM A")
    }).pipe(
      Effect.provide(
        LlmResilience.layer({
          steps: [
            {
              provider: step("a"),
              policy: Policy.all([
                Policy.make((self) => ({
                  generate: (request) =>
                    Effect.map(self.generate(request), (response) =>
                      LlmResponse.make({
                        content: LlmResponse.textContent(response.text.toUpperCase()),
                        served: response.served
                      })
                    )
                })),
                LlmResilience.standard()
              ])
            }
          ]
        })
      )
    )
  )

  it.effect("shows how every step is doing, and lets an operator isolate and reset one", () =>
    Effect.gen(function* () {
      const resilience = yield* LlmResilience.LlmResilience
      yield* resilience.circuits.get("a")?.isolate("incident 42") ?? Effect.die("no circuit")

      const since = DateTime.makeUnsafe(0)
      assert.deepStrictEqual(yield* LlmResilience.status, [
        {
          provider: "a",
          model: "scripted-1",
          circuit: { _tag: "Isolated", because: "incident 42", retryAfter: Duration.infinity },
          health: { provider: "a", state: "unhealthy", because: "circuit open", since, successRatio: 1 },
          budget: 10,
          unavailable: { _tag: "Isolated", because: "incident 42" }
        },
        {
          provider: "b",
          model: "scripted-1",
          circuit: { _tag: "Closed", failures: 0 },
          health: { provider: "b", state: "healthy", because: "well", since, successRatio: 1 },
          budget: 10
        }
      ])
      assert.strictEqual((yield* resilience.generate(request)).text, "from b")

      yield* resilience.circuits.get("a")?.reset ?? Effect.die("no circuit")
      assert.strictEqual((yield* resilience.generate(request)).text, "from a")
    }).pipe(Effect.provide(LlmResilience.layer({ steps: [{ provider: step("a") }, { provider: step("b") }] })))
  )

  it.effect("answers although the sentence for the user cannot be made", () =>
    Effect.gen(function* () {
      const response = yield* LlmResilience.generate({ prompt: "Hi" })

      assert.strictEqual(response.text, "from backup")
      assert.match(response.served.notice?.message ?? "", /^This answer comes from a backup service/)
    }).pipe(
      Effect.provide(
        LlmResilience.layer({
          steps: [{ provider: step("primary", ScriptedProvider.fail("Authentication")) }, { provider: step("backup") }]
        })
      ),
      Effect.provideService(Notice.Translate, () => {
        throw new Error("no such key")
      })
    )
  )

  it.effect("translates what the user is told", () =>
    Effect.gen(function* () {
      const response = yield* LlmResilience.generate({ prompt: "Hi" })

      assert.strictEqual(response.served.notice?.message, "Antwort von backup")
    }).pipe(
      Effect.provide(
        LlmResilience.layer({
          steps: [{ provider: step("primary", ScriptedProvider.fail("Authentication")) }, { provider: step("backup") }]
        }).pipe(
          Layer.provide(
            Layer.succeed(Notice.Translate, (facts) =>
              facts._tag === "BackupService" ? `Antwort von ${facts.provider}` : Notice.english(facts)
            )
          )
        )
      )
    )
  )

  it.effect("keeps its deadline also around a policy that waits", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Effect.flip(LlmResilience.generate({ prompt: "Hi" })))
      yield* TestClock.adjust("2 seconds")

      assert.strictEqual((yield* Fiber.join(fiber))._tag, "Timeout")
    }).pipe(
      Effect.provide(
        LlmResilience.layer({
          steps: [{ provider: step("primary") }],
          deadline: "2 seconds",
          around: Policy.make((self) => ({
            generate: (request) => Effect.delay(self.generate(request), "30 seconds")
          }))
        })
      )
    )
  )

  it.effect("puts a policy around the whole chain", () =>
    Effect.gen(function* () {
      const response = yield* LlmResilience.generate({ prompt: "Hi" })

      assert.strictEqual(response.text, "last words")
    }).pipe(
      Effect.provide(
        LlmResilience.layer({
          steps: [{ provider: step("primary", ScriptedProvider.fail("Authentication")) }],
          around: Policy.make((self) => ({
            generate: (request) =>
              Effect.catchTag(self.generate(request), "LlmUnavailable", () =>
                Effect.succeed(
                  LlmResponse.make({ content: LlmResponse.textContent("last words"), served: servedBy("around") })
                )
              )
          }))
        })
      )
    )
  )

  it.effect("marks the answers of a degraded step, whole and streamed, and tells the user", () =>
    Effect.gen(function* () {
      const whole = yield* LlmResilience.generate({ prompt: "Hi" })
      const [first] = yield* Stream.runCollect(LlmResilience.stream({ prompt: "Hi" }))
      const streamed = first?.type === "served" ? first.served : undefined

      for (const served of [whole.served, streamed]) {
        assert.strictEqual(served?.degraded, "smaller")
        assert.strictEqual(served?.notice?._tag, "Shortened")
        assert.strictEqual(served?.attempts[0]?.provider, "primary")
      }
    }).pipe(
      Effect.provide(
        LlmResilience.layer({
          steps: [
            { provider: step("primary", ScriptedProvider.fail("Authentication")) },
            { provider: step("small"), degraded: "smaller" }
          ]
        })
      )
    )
  )

  describe("events", () => {
    const make = (...script: ReadonlyArray<ScriptedProvider.Step>) =>
      Effect.gen(function* () {
        const [a, b] = yield* Effect.all([
          ScriptedProvider.make({ id: "a", script }),
          ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("b")] })
        ])
        return yield* LlmResilience.make({ steps: [{ provider: a }, { provider: b }] })
      })

    it.effect("tell the story of an answer from a backup, under the number of its request", () =>
      Effect.gen(function* () {
        const resilience = yield* make(ScriptedProvider.fail("QuotaExhausted"))
        const events = yield* listening(resilience, resilience.generate(request))

        assert.deepStrictEqual(
          events.map((event) => event._tag),
          [
            "RequestStarted",
            "AttemptStarted",
            "Called",
            "Isolated",
            "AttemptFailed",
            "FellBack",
            "AttemptStarted",
            "Called",
            "AttemptSucceeded",
            "NoticeGiven",
            "RequestAnswered"
          ]
        )
        assert.isTrue(events.every((event) => !("request" in event) || event.request === 1))
      })
    )

    it.effect("tell the story of a stream, with its commit", () =>
      Effect.gen(function* () {
        const resilience = yield* make(ScriptedProvider.tokens("one two"))
        const events = yield* listening(resilience, Stream.runDrain(resilience.stream(request)))

        assert.deepStrictEqual(
          events.map((event) => event._tag),
          ["RequestStarted", "AttemptStarted", "AttemptSucceeded", "Committed", "Called", "RequestAnswered"]
        )
      })
    )

    it.effect("end a request exactly once, also when the caller leaves", () =>
      Effect.gen(function* () {
        const resilience = yield* make(ScriptedProvider.hang)
        for (const call of [resilience.generate(request), Stream.runDrain(resilience.stream(request))]) {
          const events = yield* listening(
            resilience,
            Effect.gen(function* () {
              const fiber = yield* Effect.forkChild(call, { startImmediately: true })
              yield* Fiber.interrupt(fiber)
            })
          )

          assert.deepStrictEqual(
            events.map((event) => event._tag).filter((tag) => tag.startsWith("Request")),
            ["RequestStarted", "RequestAbandoned"]
          )
        }
      })
    )

    it.effect("never slow a call down: a listener that does not read loses the oldest", () =>
      Effect.gen(function* () {
        const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("a")] })
        const resilience = yield* LlmResilience.make({
          steps: [{ provider: a }],
          hub: ResilienceEvent.makeHub({ capacity: 4 })
        })
        const reader = yield* Effect.forkChild(
          Stream.runForEach(resilience.events, () => Effect.never),
          { startImmediately: true }
        )
        yield* Effect.yieldNow
        for (let calls = 0; calls < 1000; calls++) yield* resilience.generate(request)
        yield* Fiber.interrupt(reader)

        assert.strictEqual(yield* a.count, 1000)
      })
    )
  })

  describe("layerConfig", () => {
    const providers = {
      up: (settings: ResilienceConfig.Step & { readonly id: string }) =>
        Effect.succeed(
          Provider.make({
            id: settings.id,
            model: settings.model,
            generate: () => Effect.succeed({ content: LlmResponse.textContent(`${settings.model} answers`) })
          })
        ),
      keyed: (settings: ResilienceConfig.Step & { readonly id: string }) =>
        Effect.map(Config.Redacted(settings.apiKeyEnv ?? "KEYED_API_KEY"), (key) =>
          Provider.make({
            id: settings.id,
            model: settings.model,
            generate: () => Effect.succeed({ content: LlmResponse.textContent(`key of ${Redacted.value(key).length}`) })
          })
        )
    }
    const build = (config: string, env: Record<string, string> = {}) =>
      Effect.exit(
        Effect.provide(
          Effect.map(LlmResilience.generate({ prompt: "Hi" }), (response) => response.text),
          LlmResilience.layerConfig({ config, providers }).pipe(
            Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(env)))
          )
        )
      )

    it.effect("builds the chain of a YAML file", () =>
      Effect.gen(function* () {
        const exit = yield* build(`
fallback_chain:
  - { provider: up, model: second, priority: 2, timeout: 10s }
  - { provider: up, model: first, priority: 1, timeout: 30s }
`)

        assert.deepStrictEqual(exit, Exit.succeed("first answers"))
      })
    )

    it.effect("takes keys from the configuration provider", () =>
      Effect.gen(function* () {
        const config = "fallback_chain: [{ provider: keyed, model: m, api_key_env: MY_KEY }]"

        assert.deepStrictEqual(yield* build(config, { MY_KEY: "12345" }), Exit.succeed("key of 5"))
      })
    )

    it.effect("reports every unknown provider and missing key at once, with a suggestion", () =>
      Effect.gen(function* () {
        const exit = yield* build(`
fallback_chain:
  - { provider: upp, model: m }
  - { provider: keyed, model: m }
`)
        const error = Exit.findErrorOption(exit)
        const lines =
          error._tag === "Some" && error.value._tag === "ConfigInvalid" ? error.value.message.split("\n") : []

        assert.strictEqual(
          lines[1]?.trim(),
          'fallback_chain[0].provider: got "upp", expected one of up, keyed (did you mean "up"?)'
        )
        assert.strictEqual(
          lines[2]?.trim(),
          "fallback_chain[1].api_key_env: got nothing usable in KEYED_API_KEY, expected a value for keyed in that variable, or api_key_env to name another"
        )
      })
    )

    it.effect("gives every step its context window, and what a file cannot say stands beside it", () =>
      Effect.gen(function* () {
        const tooLong = (settings: { readonly id: string; readonly model: string }) =>
          ScriptedProvider.make({
            id: settings.id,
            model: settings.model,
            script: [ScriptedProvider.fail("ContextLengthExceeded")]
          })
        const error = yield* Effect.flip(
          Effect.provide(
            LlmResilience.generate({ prompt: "Hi" }),
            LlmResilience.layerConfig({
              config: {
                fallbackChain: [
                  { provider: "long", model: "m", id: "a", contextWindow: 8000 },
                  { provider: "long", model: "m", id: "b", contextWindow: 1000 }
                ]
              },
              providers: { long: tooLong },
              around: Policy.make((self) => ({ generate: (request) => self.generate(request) })),
              standard: { retry: "off", outputGuard: { empty: "off" } }
            })
          )
        )

        assert.strictEqual(error._tag, "LlmUnavailable")
        assert.match(error.message, /b skipped: NotCapable/)
      })
    )

    it.effect(
      "answers a configuration that is none, and settings that a provider cannot use, and shows no secret",
      () =>
        Effect.gen(function* () {
          const broken = {
            dies: () => {
              throw new RangeError("baseUrl must be an absolute URL that begins with http:// or https://")
            }
          }
          const failure = (config: unknown) =>
            Effect.map(
              Effect.flip(
                Effect.provide(
                  LlmResilience.status,
                  LlmResilience.layerConfig({ config: config as string, providers: broken })
                )
              ),
              (error) => error.message
            )

          assert.match(yield* failure(undefined), /expected a section of keys/)
          assert.match(yield* failure({ fallback_chain: [] }), /fallback_chain: got nothing/)
          assert.match(
            yield* failure({ fallback_chain: [{ provider: "dies", model: "m" }] }),
            /baseUrl must be an absolute URL/
          )
          const leaks = [
            { provider: "gsk_FAKEKEY0123456789", model: "m" },
            { provider: "dies", model: "m", api_key_env: "gsk_FAKEKEY0123456789" },
            { provider: "dies", model: "m", base_url: "htps://host/v1?key=gsk_FAKEKEY0123456789" },
            { provider: "dies", model: "m", base_url: "https://u:gsk_FAKEKEY0123456789@[bad" }
          ]
          for (const step of leaks) assert.notInclude(yield* failure({ fallback_chain: [step] }), "FAKEKEY")
        })
    )

    const scripted = (script: ScriptedProvider.Script) => {
      const made: Array<ScriptedProvider.ScriptedProvider> = []
      return {
        made,
        providers: {
          scripted: ({ id, model }: ResilienceConfig.Step & { readonly id: string }) =>
            Effect.tap(ScriptedProvider.make({ id, model, script }), (provider) =>
              Effect.sync(() => made.push(provider))
            )
        }
      }
    }
    const counts = (made: ReadonlyArray<ScriptedProvider.ScriptedProvider>) =>
      Effect.forEach(made, ({ count }) => count)

    it.effect("shares the load, bounds the attempts and checks as the file says", () => {
      const { made, providers } = scripted([ScriptedProvider.answer("Hello")])
      return Effect.gen(function* () {
        for (let call = 0; call < 30; call++) yield* LlmResilience.generate({ prompt: "Hi" })
        assert.deepStrictEqual(yield* counts(made), [20, 10, 0])
        yield* TestClock.adjust("45 seconds")
        assert.deepStrictEqual(yield* counts(made), [21, 10, 1])

        for (const { setScript } of made) yield* setScript([ScriptedProvider.fail("ServerError")])
        const fiber = yield* Effect.forkChild(Effect.exit(LlmResilience.generate({ prompt: "Hi" })))
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.join(fiber)
        assert.strictEqual(
          (yield* counts(made)).reduce((sum, count) => sum + count),
          32 + 2
        )
      }).pipe(
        Effect.provide(
          LlmResilience.layerConfig({
            providers,
            config: `
fallback_chain:
  - { provider: scripted, model: a, priority: 0, weight: 2 }
  - { provider: scripted, model: b, priority: 0, health_check: off }
  - { provider: scripted, model: c, priority: 1 }
attempts: 2
health: { interval: 30s }
`
          })
        )
      )
    })

    it.effect("hedges as the file says, and checks nobody unless it says so", () => {
      const { made, providers } = scripted((_, request) =>
        ScriptedProvider.delay(request.settings.seed === 1 ? "1 hour" : "1 second", ScriptedProvider.answer("Hello"))
      )
      return Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(LlmResilience.generate({ prompt: "Hi", settings: { seed: 1 } }))
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(yield* counts(made), [1, 1])
        yield* Fiber.interrupt(fiber)
        yield* TestClock.adjust("1 hour")

        assert.deepStrictEqual(yield* counts(made), [1, 1])
      }).pipe(
        Effect.provide(
          LlmResilience.layerConfig({
            providers,
            config:
              "{ fallback_chain: [{ provider: scripted, model: a }, { provider: scripted, model: b }], hedge: { after: 1s } }"
          })
        )
      )
    })
  })

  it.effect(
    "lets a thousand concurrent calls see a primary that fails at once no more often than its breaker allows",
    () =>
      Effect.gen(function* () {
        const dead = yield* ScriptedProvider.make({ id: "dead", script: [ScriptedProvider.fail("Network")] })
        const backup = yield* ScriptedProvider.make({ id: "backup", script: [ScriptedProvider.answer("ok")] })
        const resilience = yield* LlmResilience.make({ steps: [{ provider: dead }, { provider: backup }] })
        const fibers = yield* Effect.forEach(Array.from({ length: 1000 }), () =>
          Effect.forkChild(resilience.generate(request))
        )
        yield* TestClock.adjust("30 seconds")
        const texts = yield* Effect.forEach(fibers, Fiber.join)
        yield* TestClock.adjust("30 seconds")
        const probing = yield* Effect.forkChild(resilience.generate(request))
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(probing)

        assert.isTrue(texts.every(({ text }) => text === "ok"))
        assert.strictEqual(yield* dead.count, 5 + 1)
        assert.strictEqual(yield* dead.running, 0)
        assert.strictEqual(yield* backup.running, 0)
      })
  )
})

const servedBy = (provider: string): LlmResponse.Served => ({ provider, model: "m", from: "provider", attempts: [] })
