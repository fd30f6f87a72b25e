import { assert, describe, it } from "@effect/vitest"
import { EmergencyCache, LlmRequest, LlmResilience, Policy, Provider } from "@llm-resilience/core"
import { Alert, Chaos, Drill, DrillReport, Drills, ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Fiber, Redacted } from "effect"
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
        "expectations[1].atLeast: got 3, expected a share above 0, up to 1",
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

const short = {
  name: "short",
  about: "",
  traffic: { every: "1 second", for: "20 seconds" },
  steps: [{ at: "5 seconds", provider: "primary", fault: { error: "ServerError" } }],
  expectations: [{ answered: 0.5 }]
} satisfies Drill.Input

const linesOf = (message: string): ReadonlyArray<string> => message.split("\n  ").slice(1)

const refused = (drill: unknown): ReadonlyArray<string> => {
  try {
    // Whatever a program without types may hand over.
    Drill.rehearse(drill as Drill.Input)
    return []
  } catch (error) {
    return error instanceof Drill.DrillInvalid ? linesOf(error.message) : [String(error)]
  }
}

const unread = (traffic: string, step: string, expectation: string): ReadonlyArray<string> => {
  const yaml = `
name: x
about: y
traffic: ${traffic}
steps: [${step}]
expectations: [${expectation}]`
  const result = Effect.runSync(Effect.result(Drill.parse(yaml)))
  return result._tag === "Failure" ? linesOf(result.failure.message) : []
}

const traffic = "{ every: 1s, for: 20s }"
const step = "{ at: 5s, provider: primary, fault: { error: Network } }"
const expectation = "{ answered: 0.5 }"

describe("a drill that makes no sense", () => {
  const mistakes: ReadonlyArray<readonly [string, string, string, string]> = [
    [
      "{ every: 30s, for: 20s }",
      step,
      expectation,
      "traffic.every: got 30s, expected at most traffic.for (20s), or there is no request"
    ],
    [
      traffic,
      "{ at: 500s, provider: primary }",
      expectation,
      "steps[0].at: got 8m 20s, expected at most traffic.for (20s)"
    ],
    [
      traffic,
      "{ at: 5s, provider: primary, fault: { hang: true }, every: 5s }",
      expectation,
      "steps[0].every: got 5s, expected for beside it, the time that the fault stays"
    ],
    [
      traffic,
      "{ at: 5s, provider: primary, fault: { hang: true }, for: 6s, every: 5s }",
      expectation,
      "steps[0].for: got 6s, expected less than every (5s), or the fault never goes"
    ],
    [
      traffic,
      "{ at: 5s, provider: primary, rate: 0.5 }",
      expectation,
      "steps[0].rate: got it without a fault, expected it beside a fault; a step without one heals"
    ],
    [
      traffic,
      step,
      "{ answered: 0.5, after: 15s, until: 10s }",
      "expectations[0].until: got 10s, expected more than after (15s)"
    ],
    [
      traffic,
      step,
      "{ metric: FellBack, atLeast: -1 }",
      "expectations[0].atLeast: got -1, expected a whole number of at least 1"
    ],
    [traffic, step, "", "expectations: got none, expected at least one, or nothing can fail"],
    [traffic, step, "{ answered: 99 }", "expectations[0].answered: got 99, expected a share above 0, up to 1"],
    [
      traffic,
      step,
      "{ share: cache, atLeast: 0 }",
      "expectations[0].atLeast: got 0, expected a share above 0, up to 1"
    ],
    [
      traffic,
      step,
      "{ alert: fallback, within: 1s, of: 50s }",
      "expectations[0].of: got 50s, expected at most traffic.for (20s)"
    ]
  ]

  for (const [traffic, step, expectation, line] of mistakes) {
    it(`is refused in a file: ${line}`, () => {
      assert.deepStrictEqual(unread(traffic, step, expectation), [line])
    })
  }

  it("is refused in code alike", () => {
    const { expectations, steps } = short
    assert.deepStrictEqual(
      [
        { ...short, traffic: { every: "30 seconds", for: "20 seconds" } },
        { ...short, steps: [{ ...steps[0], at: "500 seconds" }] },
        { ...short, steps: [{ ...steps[0], for: "6 seconds", every: "5 seconds" }] },
        { ...short, expectations: [{ ...expectations[0], after: "15 seconds", until: "10 seconds" }] },
        { ...short, expectations: [{ metric: "FellBack", atLeast: -1 }] },
        { ...short, expectations: [] },
        { ...short, expectations: [{ answered: 99 }] },
        { ...short, traffic: { every: "20x", for: "20 seconds" } },
        { ...short, traffic: { every: 0, for: "20 seconds" } },
        { ...short, traffic: { every: Duration.infinity, for: "20 seconds" } },
        { ...short, traffic: { every: "1 second" } }
      ].map(refused),
      [
        ["traffic.every: got 30s, expected at most traffic.for (20s), or there is no request"],
        ["steps[0].at: got 8m 20s, expected at most traffic.for (20s)"],
        ["steps[0].for: got 6s, expected less than every (5s), or the fault never goes"],
        ["expectations[0].until: got 10s, expected more than after (15s)"],
        ["expectations[0].atLeast: got -1, expected a whole number of at least 1"],
        ["expectations: got none, expected at least one, or nothing can fail"],
        ["expectations[0].answered: got 99, expected a share above 0, up to 1"],
        ['traffic.every: got "20x", expected a duration such as 500ms, 10s or 2m'],
        ["traffic.every: got 0, expected a duration longer than zero"],
        ["traffic.every: got Infinity, expected a duration such as 500ms, 10s or 2m"],
        ["traffic.for: got nothing, expected a duration such as 500ms, 10s or 2m"]
      ]
    )
  })

  it("is told by the key that is wrong", () => {
    const fault = (fault: string) => unread(traffic, `{ at: 5s, provider: primary, fault: ${fault} }`, expectation)

    assert.deepStrictEqual(
      [
        unread("{ every: 1s, for: 20s, rate: 2 }", step, expectation),
        fault("{ error: RateLimited, retryafter: 3s }"),
        fault("{ error: Network, latency: 3s }"),
        fault("{ hang: false }"),
        fault("Network"),
        unread("{ every: 0s, for: 20s }", step, expectation),
        unread(traffic, step, "{ share: x, atMost: 0.1 }"),
        unread(traffic, step, "{ answered: 0.9, log: x }"),
        unread(traffic, step, "{ latency: 1s, atMost: 1s }"),
        unread(traffic, step, "{ notice: Backupservice }"),
        unread(traffic, step, "{ metric: CircuitOpened, atLeast: 1 }").map((line) =>
          line.replace(/of A.*Throttled/, "of …")
        )
      ],
      [
        ["traffic.rate: got a key that nobody knows, expected one of every, for, deadline, questions"],
        ["steps[0].fault.retryafter: got a key that nobody knows, expected one of error, retryAfter"],
        ["steps[0].fault: got error and latency at once, expected one of error, latency, slowTokens, output and hang"],
        ["steps[0].fault.hang: got false, expected true"],
        ['steps[0].fault: got "Network", expected one of error, latency, slowTokens, output and hang'],
        ['traffic.every: got "0s", expected a duration longer than zero'],
        [
          "expectations[0].atMost: got a key that nobody knows, expected one of share, atLeast, after, until",
          "expectations[0].atLeast: got nothing, expected a share above 0, up to 1"
        ],
        [
          "expectations[0]: got answered and log at once, expected one of answered, share, latency, alert, metric, log and notice, with its own keys"
        ],
        ['expectations[0].latency: got "1s", expected p50, p95 or p99'],
        [
          'expectations[0].notice: got "Backupservice", expected one of Slower, BackupService, Cached, Shortened, Queued, Unavailable, Rejected (did you mean "BackupService"?)'
        ],
        ['expectations[0].metric: got "CircuitOpened", expected one of … (did you mean "CircuitChanged"?)']
      ]
    )
  })

  it("is told with the line in which a file is no YAML", () => {
    const said = (yaml: string) => {
      const result = Effect.runSync(Effect.result(Drill.parse(yaml)))
      return result._tag === "Failure" ? linesOf(result.failure.message).map((line) => line.split(":")[0]) : []
    }

    assert.deepStrictEqual(said('name: x\nabout: "y\nsteps: []\n'), ["line 2"])
    assert.deepStrictEqual(said("name: x\nabout: y\ntraffic: { every: 1s, for: 20s\nsteps: []\n"), ["line 3"])
    assert.deepStrictEqual(said("name: x\nsteps:\n  - { at: 1s ]\nabout: y\n"), ["line 3"])
  })

  it("may begin with a fault at the start", () => {
    assert.deepStrictEqual(unread(traffic, "{ at: 0s, provider: primary }", "{ answered: 0.5, after: 0s }"), [])
  })

  it("is refused for names that the application does not know", () => {
    assert.deepStrictEqual(
      refused({
        ...short,
        steps: [{ ...short.steps[0], provider: "primry" }],
        expectations: [
          { alert: "fallbck", within: "1 second", of: "1 second" },
          { share: "secndary", atLeast: 0.5 },
          { share: "cache", atLeast: 0.5 }
        ]
      }),
      [
        'steps[0].provider: got "primry", which is unknown, expected one of primary, secondary (did you mean "primary"?)',
        'expectations[0].alert: got "fallbck", which is unknown, expected one of fallback, failing, cached, circuit (did you mean "fallback"?)',
        'expectations[1].share: got "secndary", which is unknown, expected one of primary, secondary, cache (did you mean "secondary"?)'
      ]
    )
  })
})

const steady = (ids: ReadonlyArray<string>, step: ScriptedProvider.Step = ScriptedProvider.answer("Hello!")) =>
  Effect.gen(function* () {
    const pairs = yield* Effect.forEach(ids, (id) =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.make()
        const provider = yield* ScriptedProvider.make({ id, script: [step] })
        return { id, chaos, provider, policy: Policy.all([LlmResilience.standard({ retry: "off" }), chaos.guard]) }
      })
    )
    const [first, ...others] = pairs
    if (first === undefined) return yield* Effect.die("no provider")
    const service = yield* LlmResilience.make({ steps: [first, ...others] })
    return { service, chaos: Object.fromEntries(pairs.map(({ chaos, id }) => [id, chaos])) }
  })

// What the pages say of the ready drills, held against a chain that has nothing but the given settings.
describe("a ready drill", () => {
  const missed = (
    settings: LlmResilience.StandardOptions,
    around: Policy.Policy<EmergencyCache.EmergencyCache> = Policy.none
  ) => {
    const target = Effect.gen(function* () {
      const step = (id: "primary" | "secondary", delay: number, seed: number) =>
        Effect.gen(function* () {
          const chaos = yield* Chaos.make({ seed })
          const provider = yield* ScriptedProvider.make({
            id,
            script: [ScriptedProvider.delay(delay, ScriptedProvider.answer("Hello!"))]
          })
          return { provider, chaos, policy: Policy.all([LlmResilience.standard(settings), chaos.guard]) }
        })
      const [primary, secondary] = [yield* step("primary", 400, 1), yield* step("secondary", 700, 2)]
      const service = yield* LlmResilience.make({ steps: [primary, secondary], around })
      return { service, chaos: { primary: primary.chaos, secondary: secondary.chaos } }
    }).pipe(Effect.provide(EmergencyCache.layerMemory({ secret: Redacted.make("a secret of a test") })))
    return Object.entries(Drills.all).flatMap(([name, drill]) =>
      Drill.rehearse(drill, { target }).passed ? [] : [name]
    )
  }
  const attempt = { timeouts: { attempt: "5 seconds" } } as const
  const openFor = { circuitBreaker: { openFor: "10 seconds" } } as const

  it("is met by the standard chain, or by what it presupposes", () => {
    const cached = EmergencyCache.policy()
    const withoutCache = ["rate-limit-surge", "total-outage"]

    assert.deepStrictEqual(missed({}).toSorted(), ["flapping", "rate-limit-surge", "slow-death", "total-outage"])
    assert.deepStrictEqual(missed(attempt), [...withoutCache, "flapping"])
    assert.deepStrictEqual(missed({ ...attempt, ...openFor }), withoutCache)
    assert.deepStrictEqual(missed(openFor, cached), ["slow-death"])
    assert.deepStrictEqual(missed({ ...attempt, ...openFor }, cached), [])
  })
})

describe("Drill.run", () => {
  it("refuses chaos by a name that is no step, and runs a ready drill by other names", () => {
    const target = steady(["anthropic", "openai"])
    const misnamed = Effect.gen(function* () {
      const { service } = yield* target
      return { service, chaos: { primary: yield* Chaos.make(), secondary: yield* Chaos.make() } }
    })
    const renamed = Drill.rename(Drills.primaryOutage, { primary: "anthropic", secondary: "openai" })

    assert.throws(
      () => Drill.rehearse(Drills.primaryOutage, { target: misnamed }),
      /chaos\.primary: got "primary", which is unknown, expected one of anthropic, openai\n/
    )
    assert.deepStrictEqual(
      Drill.rehearse(renamed, { target }).verdicts.filter(({ passed }) => !passed),
      []
    )
  })

  it("takes the whole of a chain within the chain for a step, and those within it for providers", () => {
    const nested = Effect.gen(function* () {
      const chaos = yield* Chaos.make()
      const { service } = yield* steady(["inner"])
      const outer = yield* LlmResilience.make({
        steps: [
          {
            provider: { ...service.provider, id: "east" },
            policy: Policy.all([LlmResilience.standard(), chaos.guard])
          }
        ]
      })
      return { service: outer, chaos: { east: chaos } }
    })
    const drill = { ...short, steps: [], expectations: [{ share: "inner", atLeast: 1 }] }

    assert.isTrue(Drill.rehearse(drill, { target: nested }).passed)
  })

  it.effect("refuses a second drill at the same time, leaves the first alone, and runs another one afterwards", () =>
    Effect.gen(function* () {
      const target = yield* steady(["primary"])
      const first = yield* Effect.forkChild(Drill.run(short, target))
      yield* TestClock.adjust("10 seconds")
      const other = { service: target.service, chaos: { primary: yield* Chaos.make() } }
      const second = yield* Effect.flip(Drill.run(short, other))
      const third = yield* Effect.flip(Drill.run(short, target))
      yield* TestClock.adjust("1 minute")
      const report = yield* Fiber.join(first)
      const again = yield* Effect.forkChild(Drill.run(short, target))
      yield* TestClock.adjust("1 minute")

      assert.strictEqual(second._tag, "TargetBusy")
      assert.strictEqual(third._tag, "TargetBusy")
      assert.strictEqual(report.figures.requests, 20)
      assert.isAbove(report.figures.failed, 10)
      assert.strictEqual((yield* Fiber.join(again)).figures.requests, 20)
    }).pipe(Effect.scoped)
  )

  it("does what is to be done at one moment in the order in which it was written", () => {
    const at = "5 seconds"
    for (let seed = 0; seed < 8; seed++) {
      const report = Drill.rehearse(
        {
          ...short,
          steps: [
            { at: "10 seconds", provider: "secondary" },
            { at, provider: "secondary", fault: { hang: true } },
            { at, provider: "primary", fault: { hang: true } },
            { at: "10 seconds", provider: "primary" }
          ]
        },
        { seed }
      )

      assert.deepStrictEqual(
        report.timeline.map(({ text }) => text).filter((text) => /hangs|well/.test(text)),
        ["secondary hangs", "primary hangs", "secondary is well again", "primary is well again"]
      )
    }
  })

  it("says so when nothing can come back in virtual time", () => {
    const promised = Effect.gen(function* () {
      const chaos = yield* Chaos.make()
      const provider = Provider.make({
        id: "primary",
        model: "m",
        generate: () => Effect.promise(() => new Promise<never>(() => {}))
      })
      return { service: yield* LlmResilience.make({ steps: [{ provider }] }), chaos: { primary: chaos } }
    })
    const report = Drill.rehearse(short, { target: promised })

    assert.isFalse(report.passed)
    assert.match(report.remarks.join(), /a promise that is really waited for .* never comes/)
    assert.include(DrillReport.toMarkdown(report), report.remarks.join())
    assert.deepStrictEqual(Drill.rehearse(short).remarks, [])
    assert.throws(
      () => Drill.rehearse(short, { target: Effect.promise(() => new Promise<never>(() => {})) }),
      /nothing can ever happen again.* a promise/
    )
  })

  it("does not blame virtual time for an outage", () => {
    const hanging = { ...short, steps: [{ at: 0, provider: "primary", fault: { hang: true } }] } satisfies Drill.Input

    const wrapped = Effect.gen(function* () {
      const chaos = yield* Chaos.make()
      const model = yield* ScriptedProvider.make({ id: "primary", script: [ScriptedProvider.answer("Hello!")] })
      const service = yield* LlmResilience.make({ steps: [{ provider: yield* chaos.guard(model) }] })
      return { service, chaos: { primary: chaos } }
    })

    for (const target of [wrapped, steady(["primary"])]) {
      assert.deepStrictEqual(Drill.rehearse(hanging, { target }).remarks, [])
    }
    assert.deepStrictEqual(
      Drill.rehearse(short, { target: steady(["primary"], ScriptedProvider.fail("ServerError")) }).remarks,
      []
    )
  })
})

describe("DrillReport", () => {
  const verdict = (expectation: Drill.Input["expectations"][number], target = steady(["primary"])) => {
    const [verdict] = Drill.rehearse({ ...short, steps: [], expectations: [expectation] }, { target }).verdicts
    return verdict
  }
  const failing = steady(["primary"], ScriptedProvider.fail("InvalidRequest"))

  it("says a latency so that it can be compared with its limit", () => {
    const after = (millis: number) =>
      verdict(
        { latency: "p95", atMost: millis > 1000 ? "5 seconds" : "10 millis" },
        steady(["primary"], ScriptedProvider.delay(millis, ScriptedProvider.answer("Hello!")))
      )?.found

    assert.strictEqual(after(12), "12 ms")
    assert.strictEqual(after(5004), "5.004 s")
  })

  it("says that a window has no requests, and that none of them was answered", () => {
    const after = "50 seconds"

    assert.deepStrictEqual(
      [
        verdict({ latency: "p99", atMost: "1 millis", after }),
        verdict({ share: "primary", atLeast: 0.5, after }),
        verdict({ answered: 0.5, after })
      ].map((verdict) => [verdict?.passed, verdict?.found]),
      [
        [false, "no requests in this window"],
        [false, "no requests in this window"],
        [false, "no requests in this window"]
      ]
    )
    assert.strictEqual(
      verdict({ latency: "p99", atMost: "1 second" }, failing)?.found,
      "none of 20 requests was answered"
    )
    assert.strictEqual(verdict({ share: "primary", atLeast: 0.5 })?.found, "100 % (20 of 20)")
  })

  it("names the requests that were lost: when, what they got and from whom", () => {
    const outage = Drill.rehearse(short, { target: steady(["primary"]) })
    const [first] = outage.lost
    const told = DrillReport.lostLines(outage)

    assert.strictEqual(outage.lost.length, 10)
    assert.deepStrictEqual(
      { ...first, at: Math.round(first?.at ?? 0) },
      {
        at: 5000,
        after: 0,
        got: "no provider could answer",
        tried: ["primary failed: APIError ServerError after 0ms"]
      }
    )
    assert.strictEqual(
      told[0],
      "5.0 s: no provider could answer after 0 ms (primary failed: APIError ServerError after 0ms)"
    )
    assert.strictEqual(told.at(-1), `and ${outage.figures.failed - 10} more`)
    assert.include(DrillReport.toMarkdown(outage), `## Lost requests\n\n- ${told[0]}\n`)
    assert.deepInclude(JSON.parse(DrillReport.toJson(outage)), { lost: outage.lost })

    const [rejected] = Drill.rehearse({ ...short, steps: [] }, { target: failing }).lost
    assert.deepStrictEqual(
      [rejected?.got, rejected?.tried],
      ["InvalidRequest from primary", ["primary failed: APIError InvalidRequest after 0ms"]]
    )
    assert.notInclude(DrillReport.toMarkdown(Drill.rehearse({ ...short, steps: [] })), "Lost requests")
  })

  it("shows in the timeline when a provider rests, and tells it as it happens", () => {
    const told: Array<string> = []
    const { timeline } = Drill.rehearse(
      {
        ...short,
        steps: [{ at: "5 seconds", provider: "primary", fault: { error: "RateLimited", retryAfter: "7 seconds" } }]
      },
      { onProgress: ({ text }) => told.push(text) }
    )

    assert.include(
      timeline.map(({ text }) => text),
      "primary rests for 7s"
    )
    assert.include(told, "primary rests for 7s")
  })

  it("tells of the first lost requests as they happen", () => {
    const told: Array<string> = []
    Drill.rehearse(short, { target: steady(["primary"]), onProgress: ({ text }) => told.push(text) })

    assert.strictEqual(told.filter((text) => text.startsWith("no answer:")).length, 10)
  })

  it("keeps a bar and a new line within their cell of the table", () => {
    const report = Drill.rehearse({ ...short, expectations: [{ log: "a | b\nc" }] })

    assert.include(DrillReport.toMarkdown(report), '| **FAILED** | the log says "a \\| b c" | it does not |\n')
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
