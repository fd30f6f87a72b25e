import { assert, describe, it } from "@effect/vitest"
import { ResilienceConfig } from "@llm-resilience/core"
import { Duration, Effect, Schema } from "effect"

const mistakes = (text: string) =>
  Effect.map(Effect.flip(ResilienceConfig.parse(text)), (error) => error.issues.map(ResilienceConfig.formatIssue))

const chain = (step: string) => `fallback_chain:\n  - provider: a\n    model: m\n    ${step}\n`

describe("ResilienceConfig", () => {
  it.effect("loads a chain of four steps as it is written", () =>
    Effect.gen(function* () {
      const config = yield* ResilienceConfig.parse(`
fallback_chain:
  - provider: anthropic
    model: claude-3-opus
    priority: 1
    timeout: 30s
  - provider: openai
    model: gpt-4-turbo
    priority: 2
    timeout: 30s
  - provider: bedrock
    model: claude-3-sonnet
    priority: 3
    timeout: 30s
  - provider: ollama
    model: llama3
    priority: 4
    timeout: 10s
`)

      assert.deepStrictEqual(
        config.fallbackChain.map((step) => [step.provider, step.priority, Duration.toSeconds(step.timeout ?? 0)]),
        [
          ["anthropic", 1, 30],
          ["openai", 2, 30],
          ["bedrock", 3, 30],
          ["ollama", 4, 10]
        ]
      )
    })
  )

  it.effect("reads JSON as well, and everything that can be set", () =>
    Effect.gen(function* () {
      const config = yield* ResilienceConfig.parse(
        JSON.stringify({
          fallback_chain: [
            {
              provider: "openai",
              model: "m",
              id: "first",
              priority: 0,
              timeout: "1.5s",
              idle_timeout: "500 ms",
              base_url: "https://example.test/v1",
              api_key_env: "KEY",
              max_output_tokens: 100,
              temperature: 0.2,
              context_window: 8000,
              weight: 2.5,
              health_check: "off",
              max_concurrent: 10,
              max_queued: 0,
              max_wait: "200ms",
              requests_per_minute: 500,
              tokens_per_minute: 30000
            }
          ],
          deadline: "1m",
          attempts: 5,
          budget: { ratio: 0.1, floor: 3 },
          hedge: { after: "2s", quantile: 0.9, minimum: "100ms", hedges: 2 },
          routing: { strategy: "least-latency" },
          health: { interval: "1m", interval_when_down: "5s", timeout: "3s" },
          retry: { retries: 0, base: "1s", cap: "2 seconds", max_retry_after: "1s" },
          circuit_breaker: { failures: 3, open_for: "1h", probes: 2, slow_start: "5s" },
          cooldown: { rest: "1s", max_rest: "10s", isolation: "5m" }
        })
      )

      assert.strictEqual(Duration.toMillis(config.fallbackChain[0].timeout ?? 0), 1500)
      assert.strictEqual(Duration.toMillis(config.fallbackChain[0].idleTimeout ?? 0), 500)
      assert.strictEqual(config.circuitBreaker?.failures, 3)
      assert.deepStrictEqual(config.circuitBreaker?.openFor, Duration.hours(1))
      assert.deepStrictEqual(config.circuitBreaker?.slowStart, Duration.seconds(5))
      assert.deepStrictEqual(config.health?.intervalWhenDown, Duration.seconds(5))
      assert.deepStrictEqual(config.routing, { strategy: "least-latency" })
    })
  )

  it.effect("survives being written and read again", () =>
    Effect.gen(function* () {
      const config = yield* ResilienceConfig.parse(chain("timeout: 30s"))
      const written = yield* Schema.encodeEffect(ResilienceConfig.ResilienceConfig)(config)

      assert.deepStrictEqual(yield* ResilienceConfig.decode(written), config)
    })
  )

  it.effect("names steps after their provider, and after the model too where that is not enough", () =>
    Effect.gen(function* () {
      const config = yield* ResilienceConfig.parse(`
fallback_chain:
  - { provider: openai, model: large }
  - { provider: openai, model: small }
  - { provider: anthropic, model: m }
  - { provider: openai, model: m, id: mine }
`)

      assert.deepStrictEqual(ResilienceConfig.stepIds(config), ["openai/large", "openai/small", "anthropic", "mine"])
    })
  )

  it.effect("answers every mistake with path, value and expectation", () =>
    Effect.gen(function* () {
      const duration = 'a duration such as "30s" or "1500ms"'
      const cases: ReadonlyArray<readonly [string, string]> = [
        [chain("timeout: 30x"), `fallback_chain[0].timeout: got "30x", expected ${duration}`],
        [chain("timeout: 30"), `fallback_chain[0].timeout: got 30, expected ${duration}`],
        [chain("timeout: 0s"), `fallback_chain[0].timeout: got "0s", expected ${duration}`],
        [chain("timeout: -5s"), `fallback_chain[0].timeout: got "-5s", expected ${duration}`],
        [chain("priority: -1"), "fallback_chain[0].priority: got -1, expected a whole number of at least 0"],
        [chain("priority: 1.5"), "fallback_chain[0].priority: got 1.5, expected a whole number of at least 0"],
        [
          chain("base_url: localhost"),
          'fallback_chain[0].base_url: got "localhost", expected a URL such as "https://api.openai.com/v1"'
        ],
        [
          "fallback_chain: [{ model: m }]",
          'fallback_chain[0].provider: got nothing, expected the name of a provider such as "anthropic"'
        ],
        [
          'fallback_chain: [{ provider: "", model: m }]',
          'fallback_chain[0].provider: got "", expected the name of a provider such as "anthropic"'
        ],
        [
          "fallback_chain: []",
          "fallback_chain: got nothing, expected a list of at least one step with provider and model"
        ],
        ["fallback_chain: [anthropic]", 'fallback_chain[0]: got "anthropic", expected a step with provider and model'],
        [
          chain("base_url: htp://user:sk-secret@host"),
          'fallback_chain[0].base_url: got "htp://…@host", expected a URL such as "https://api.openai.com/v1"'
        ],
        [
          chain("api_key_env: sk-secret"),
          'fallback_chain[0].api_key_env: got something else, expected the name of an environment variable such as "ANTHROPIC_API_KEY"'
        ],
        ["deadline: 30s", "fallback_chain: got nothing, expected a list of at least one step with provider and model"],
        [`${chain("")}retry: { retries: -1 }`, "retry.retries: got -1, expected a whole number of at least 0"],
        [
          `${chain("")}circuit_breaker: { failures: 0 }`,
          "circuit_breaker.failures: got 0, expected a whole number of at least 1"
        ],
        [`${chain("")}cooldown: { rest: soon }`, `cooldown.rest: got "soon", expected ${duration}`],
        [
          `${chain("")}health: { interval: 5s, interval_when_down: 10s }`,
          'health.interval_when_down: got "10s", expected a duration no longer than interval, which is "5s"'
        ],
        [
          `${chain("")}health: { interval_when_down: 1m }`,
          'health.interval_when_down: got "1m", expected a duration no longer than interval, which is "30s"'
        ],
        [chain("max_queued: 3"), "fallback_chain[0].max_queued: got 3, expected max_concurrent beside it"],
        [chain("max_wait: 3s"), 'fallback_chain[0].max_wait: got "3s", expected max_concurrent beside it']
      ]
      for (const [text, expected] of cases) assert.deepStrictEqual(yield* mistakes(text), [expected])
    })
  )

  it.effect("suggests what an unknown key may have meant", () =>
    Effect.gen(function* () {
      const [line] = yield* mistakes(chain("tiemout: 30s"))
      assert.match(line ?? "", /^fallback_chain\[0\]\.tiemout: got an unknown key, expected one of provider, model/)
      assert.match(line ?? "", /\(did you mean "timeout"\?\)$/)

      const [other] = yield* mistakes(`${chain("")}circuitbreaker: { failures: 1 }`)
      assert.match(other ?? "", /^circuitbreaker: got an unknown key.*did you mean "circuit_breaker"/)
    })
  )

  it.effect("lists all mistakes, not only the first", () =>
    Effect.gen(function* () {
      const lines = yield* mistakes(
        "fallback_chain: [{ provider: a, model: m, timeout: x }, { provider: b, priority: -1 }]"
      )

      assert.strictEqual(lines.length, 3)
    })
  )

  it.effect("rejects two steps of the same id", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        yield* mistakes("fallback_chain: [{ provider: a, model: m }, { provider: b, model: m, id: a }]"),
        ['fallback_chain[1].id: got "a", which fallback_chain[0] has already, expected an id that no other step has']
      )
    })
  )

  it.effect("answers text that is no YAML, and a document that is no section", () =>
    Effect.gen(function* () {
      const [broken] = yield* mistakes("fallback_chain: [")
      assert.match(broken ?? "", /expected YAML or JSON$/)
      const [scalar] = yield* mistakes("hello")
      assert.match(scalar ?? "", /^got "hello", expected a section of keys/)
    })
  )
})
