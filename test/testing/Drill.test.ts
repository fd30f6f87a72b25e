import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResilience, Policy } from "@llm-resilience/core"
import { Alert, Chaos, Drill, DrillReport, Drills, ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"

const found = (report: DrillReport.DrillReport): ReadonlyArray<readonly [string, boolean]> =>
  report.verdicts.map(({ expectation, passed }) => [expectation, passed])

describe("Drill", () => {
  for (const [name, drill] of Object.entries(Drills.all)) {
    it(`the ready-made drill ${name} passes, the same way each time`, () => {
      const report = Drill.rehearse(drill)

      assert.deepStrictEqual(
        report.verdicts.filter(({ passed }) => !passed),
        []
      )
      assert.isAbove(report.figures.events["ChaosInjected"] ?? 0, 5)
      assert.deepStrictEqual(Drill.rehearse(drill), report)
    })
  }

  const parsed = (yaml: string) => Effect.runSync(Effect.result(Drill.parse(yaml)))

  it("says where a drill is wrong, what stands there and what should", () => {
    const said = (yaml: string) => {
      const result = parsed(yaml)
      return result._tag === "Failure" ? result.failure.message.split("\n  ").slice(1) : []
    }
    const drill = `
name: x
about: y
traffic: { every: 1s, for: 10x }
steps:
  - { at: 30s, provider: a, fault: { error: RateLimitd } }
  - { provider: b, falt: { hang: true } }
expectations:
  - { answerd: 0.9 }
  - { share: a, atLeast: 3 }
  - { latency: p42, atMost: 1s }`

    assert.deepStrictEqual(
      said(drill).map((line) => line.replace(/(Timeout, RateLimited), .*/, "$1, …")),
      [
        'traffic.for: got "10x", expected a duration such as 500ms, 10s or 2m',
        'steps[0].fault.error: got "RateLimitd", expected one of Timeout, RateLimited, …',
        "steps[1].falt: got a key that nobody knows, expected one of at, provider, fault, rate, for, every",
        "steps[1].at: got nothing, expected a duration such as 500ms, 10s or 2m",
        'expectations[0]: got {"answerd":0.9}, expected one of answered, share, latency, alert, metric, log and notice, with its own keys',
        "expectations[1].atLeast: got 3, expected a share from 0 to 1, of a metric a whole number",
        'expectations[2].latency: got "p42", expected p50, p95 or p99'
      ]
    )
    assert.deepStrictEqual(said("hello"), [
      'the drill: got "hello", expected one of name, about, traffic, steps, expectations'
    ])
    assert.strictEqual(said("name: [").length, 1)
  })

  it("fails expectations that are not met, and says what was found", () => {
    const result = parsed(`
name: too much to ask
about: Nothing goes wrong, and everything is expected to.
traffic: { every: 1s, for: 20s }
steps: []
expectations:
  - answered: 1
  - { share: secondary, atLeast: 0.5 }
  - { latency: p50, atMost: 1ms }
  - { alert: fallback, within: 5s, of: 1s }
  - { metric: FellBack, atLeast: 1 }
  - { log: primary failed }
  - { notice: Cached }
`)
    assert.strictEqual(result._tag, "Success")
    if (result._tag !== "Success") return
    const report = Drill.rehearse(result.success)

    assert.isFalse(report.passed)
    assert.deepStrictEqual(found(report), [
      ["at least 100 % of the requests are answered", true],
      ["at least 50 % of the answers come from secondary", false],
      ["the p50 is at most 1ms", false],
      [`the alert "fallback" fires within 5s of 1s`, false],
      ["the metric FellBack shows at least 1", false],
      [`the log says "primary failed"`, false],
      ["users are told: Cached", false]
    ])
    assert.include(DrillReport.toMarkdown(report), "**Verdict: FAILED**")
    assert.match(DrillReport.toSvg(report), /^<svg [^]*too much to ask[^]*<\/svg>\n$/)
    assert.notInclude(DrillReport.toSvg(report), "NaN")
    assert.deepStrictEqual(JSON.parse(DrillReport.toJson(report)), JSON.parse(JSON.stringify(report)))
  })

  it.effect("runs against an application on the clock that is there, tells what happens, and leaves no chaos", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedProvider.make({ id: "only", script: [ScriptedProvider.answer("Hello!")] })
      const chaos = yield* Chaos.make()
      const service = yield* LlmResilience.make({
        steps: [
          {
            provider: model,
            policy: Policy.all([LlmResilience.standard({ retry: "off" }), chaos.guard])
          }
        ]
      })
      const told: Array<string> = []
      const drill: Drill.Drill = {
        name: "short",
        about: "",
        traffic: { every: Duration.seconds(1), for: Duration.seconds(20) },
        steps: [{ at: Duration.seconds(5), provider: "only", fault: { error: "ServerError" } }],
        expectations: [{ answered: 0.99, until: Duration.millis(4500) }]
      }
      const running = yield* Effect.forkChild(
        Drill.run(drill, { service, chaos: { only: chaos } }, { onProgress: ({ text }) => told.push(text) })
      )
      yield* TestClock.adjust("1 minute")
      const report = yield* Fiber.join(running)

      assert.isTrue(report.passed)
      assert.strictEqual(report.figures.requests, 20)
      assert.isAbove(report.figures.failed, 0)
      assert.include(told, "only fails with ServerError")
      assert.include(told, "circuit of only: Closed -> Open")
      const before = yield* chaos.injected
      yield* TestClock.adjust("2 minutes")
      yield* Effect.exit(service.generate(LlmRequest.make({ prompt: "Hi" })))
      assert.strictEqual(yield* chaos.injected, before)
    }).pipe(Effect.scoped)
  )

  it("refuses a drill that names a provider without chaos", () => {
    const drill = { ...Drills.primaryOutage, steps: [{ at: Duration.seconds(1), provider: "nobody" }] }

    assert.throws(() => Drill.rehearse(drill))
  })
})

describe("Alert", () => {
  const answered = (at: number, provider: string): Alert.Noted => ({
    at,
    event: {
      _tag: "RequestAnswered",
      method: "generate",
      request: 1,
      duration: Duration.zero,
      served: { provider, model: "m", from: "provider", attempts: [] }
    }
  })
  const started: Alert.Noted = { at: 0, event: { _tag: "AttemptStarted", request: 1, provider: "a", model: "m" } }
  const rule: Alert.Alert = { name: "fallback", of: "fallbacks", above: 0.5, window: "10 seconds", minimum: 3 }

  it("fires when the share in the window is above the limit, and there is enough to say so", () => {
    const events = [started, answered(1100, "b"), answered(1200, "b"), answered(2500, "b"), answered(2600, "a")]

    assert.deepStrictEqual(Alert.fired(rule, events, 30_000), [3000])
  })

  it("forgets what is older than its window, and fires again", () => {
    const events = [1100, 1200, 1300, 21_100, 21_200, 21_300].map((at) => answered(at, "b"))

    assert.deepStrictEqual(Alert.fired(rule, [started, ...events], 60_000), [2000, 22_000])
  })

  it("does not fire at the limit", () => {
    const events = [started, ...["a", "a", "b", "b"].map((provider) => answered(1500, provider))]

    assert.deepStrictEqual(Alert.fired(rule, events, 30_000), [])
  })
})
