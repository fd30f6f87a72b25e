import { assert, describe, it } from "@effect/vitest"
import { Circuit } from "@llm-resilience/core"
import { Duration, Effect, Random } from "effect"

const consecutive = (failures: number): Circuit.Trip => ({ _tag: "Consecutive", failures })

const rate = (options: {
  readonly size?: number
  readonly millis?: number
  readonly minimumCalls: number
  readonly failureRate?: number
  readonly slowAfter?: number
  readonly slowRate?: number
}): Circuit.Trip => ({
  _tag: "Rate",
  window:
    options.millis === undefined
      ? { _tag: "Count", size: options.size ?? options.minimumCalls }
      : { _tag: "Time", millis: options.millis, buckets: 10 },
  minimumCalls: options.minimumCalls,
  failureRate: options.failureRate ?? 0.5,
  slowAfter: options.slowAfter ?? Infinity,
  slowRate: options.slowRate ?? 1
})

const settings = (overrides?: Partial<Circuit.Settings>): Circuit.Settings => ({
  trip: consecutive(3),
  openFor: () => 1000,
  maxOpenFor: 60_000,
  probes: 1,
  probeLease: 500,
  probeFailureRate: 0,
  slowStart: 0,
  ...overrides
})

/** A circuit that is driven by hand. */
const drive = (rules: Circuit.Settings) => {
  let state = Circuit.initial(rules)
  let number = 0
  const apply = (event: Circuit.Event, now: number): Circuit.Decision => {
    const [next, decision] = Circuit.step(rules, state, event, now)
    state = next
    return decision
  }
  const admit = (now: number, lastResort = false, insists = false): Circuit.Admission | undefined => {
    const decision = apply({ _tag: "Admit", number, lastResort, insists }, now)
    if (decision._tag !== "Admitted") return undefined
    number++
    return decision.admission
  }
  const record = (
    admission: Circuit.Admission | undefined,
    verdict: "success" | "failure" | "ignored",
    now: number,
    more?: { readonly duration?: number; readonly retryAfter?: number }
  ): Circuit.Decision => {
    assert.isDefined(admission)
    return apply(
      { _tag: "Record", admission, verdict, duration: more?.duration ?? 0, retryAfter: more?.retryAfter ?? 0 },
      now
    )
  }
  const call = (
    verdict: "success" | "failure" | "ignored",
    now: number,
    more?: { readonly duration?: number; readonly retryAfter?: number }
  ) => record(admit(now), verdict, now, more)
  return {
    apply,
    admit,
    record,
    call,
    tag: () => state._tag,
    state: () => state,
    peek: (now: number, lastResort = false) => Circuit.peek(rules, state, { lastResort, insists: false }, now)
  }
}

describe("Circuit", () => {
  it("stays closed when an old call fails after ten thousand good ones", () => {
    const circuit = drive(settings({ trip: consecutive(5) }))
    for (let call = 0; call < 4; call++) circuit.call("failure", 0)
    const old = circuit.admit(0)
    for (let call = 0; call < 10_000; call++) circuit.call("success", call)
    circuit.record(old, "failure", 3_600_000)

    assert.strictEqual(circuit.tag(), "Closed")
  })

  it("is held open by failing checks for its longest time and no longer", () => {
    const circuit = drive(settings({ trip: consecutive(1), maxOpenFor: 60_000 }))
    circuit.call("failure", 0)
    for (let now = 0; now < 59_000; now += 500) circuit.apply({ _tag: "Hold", duration: 1000 }, now)
    circuit.apply({ _tag: "Hold", duration: 10_000 }, 59_000)

    assert.isDefined(circuit.peek(59_999))
    assert.isUndefined(circuit.peek(60_000))
  })

  it("is open again when a check fails while nobody probes", () => {
    const circuit = drive(settings({ trip: consecutive(1) }))
    circuit.call("failure", 0)
    circuit.apply({ _tag: "HalfOpen" }, 100)
    circuit.apply({ _tag: "Hold", duration: 5000 }, 200)

    assert.strictEqual(circuit.tag(), "Open")
    assert.isDefined(circuit.peek(5199))
    assert.isUndefined(circuit.peek(5200))
  })

  it("is closed and has seen nothing when it is new", () => {
    const circuit = drive(settings())

    assert.strictEqual(circuit.tag(), "Closed")
    assert.isUndefined(circuit.peek(0))
  })

  it("opens on the failure that completes the streak, and a success in between starts the count anew", () => {
    const circuit = drive(settings())
    circuit.call("failure", 0)
    circuit.call("failure", 0)
    circuit.call("success", 0)
    circuit.call("failure", 0)
    circuit.call("failure", 0)
    assert.strictEqual(circuit.tag(), "Closed")

    circuit.call("failure", 0)

    assert.strictEqual(circuit.tag(), "Open")
  })

  it("opens when calls that were sent one after the other fail, although long answers from before arrive between", () => {
    const circuit = drive(settings())
    const before = [circuit.admit(0), circuit.admit(0), circuit.admit(0)]
    const after = [circuit.admit(0), circuit.admit(0), circuit.admit(0)]
    circuit.record(after[0], "failure", 10)
    circuit.record(before[0], "success", 11)
    circuit.record(after[2], "failure", 12)
    circuit.record(before[1], "success", 13)
    assert.strictEqual(circuit.tag(), "Closed")

    circuit.record(after[1], "failure", 14)

    assert.strictEqual(circuit.tag(), "Open")
  })

  it("does not take failures for a row when another call was sent between them", () => {
    const circuit = drive(settings())
    for (let call = 0; call < 20; call++) {
      const sent = [circuit.admit(0), circuit.admit(0), circuit.admit(0)]
      circuit.record(sent[0], "failure", call)
      circuit.record(sent[1], "failure", call)
      circuit.record(sent[2], "success", call)
    }

    assert.strictEqual(circuit.tag(), "Closed")
  })

  it("reports the full time of an opening at once, and half of it half-way", () => {
    const circuit = drive(settings({ trip: consecutive(1) }))
    circuit.call("failure", 0)

    assert.deepStrictEqual(circuit.peek(0), { _tag: "CircuitOpen", retryAfter: Duration.millis(1000) })
    assert.deepStrictEqual(circuit.peek(500), { _tag: "CircuitOpen", retryAfter: Duration.millis(500) })
  })

  it("turns half-open on the first call at the deadline, and not one tick earlier", () => {
    const circuit = drive(settings({ trip: consecutive(1) }))
    circuit.call("failure", 0)

    assert.isUndefined(circuit.admit(999.999))
    assert.strictEqual(circuit.tag(), "Open")
    assert.isDefined(circuit.admit(1000))
    assert.strictEqual(circuit.tag(), "HalfOpen")
  })

  it("rejects a second call while the probe runs", () => {
    const circuit = drive(settings({ trip: consecutive(1) }))
    circuit.call("failure", 0)
    circuit.admit(1000)

    assert.isUndefined(circuit.admit(1001))
    assert.deepStrictEqual(circuit.peek(1001), { _tag: "ProbeRunning" })
  })

  it("closes after a good probe and forgets; opens for a full new time after a bad one", () => {
    const circuit = drive(settings({ trip: consecutive(2) }))
    circuit.call("failure", 0)
    circuit.call("failure", 0)
    circuit.call("failure", 1000)
    assert.deepStrictEqual(circuit.peek(1000), { _tag: "CircuitOpen", retryAfter: Duration.millis(1000) })

    circuit.call("success", 2000)
    assert.strictEqual(circuit.tag(), "Closed")

    circuit.call("failure", 2001)
    assert.strictEqual(circuit.tag(), "Closed")
  })

  it("asks for the opening times 1, 2, 3, … in a row, and from 1 again after a close", () => {
    const asked: Array<number> = []
    const circuit = drive(
      settings({
        trip: consecutive(1),
        openFor: (opening) => {
          asked.push(opening)
          return 1000
        }
      })
    )
    circuit.call("failure", 0)
    circuit.call("failure", 1000)
    circuit.call("failure", 2000)
    circuit.call("success", 3000)
    circuit.call("failure", 3000)

    assert.deepStrictEqual(asked, [1, 2, 3, 1])
  })

  it("respects a Retry-After that is longer than the opening, up to the cap", () => {
    const circuit = drive(settings({ trip: consecutive(1), maxOpenFor: 5000 }))
    circuit.call("failure", 0, { retryAfter: 3000 })
    assert.deepStrictEqual(circuit.peek(0), { _tag: "CircuitOpen", retryAfter: Duration.millis(3000) })

    circuit.call("failure", 3000, { retryAfter: 86_400_000 })
    assert.deepStrictEqual(circuit.peek(3000), { _tag: "CircuitOpen", retryAfter: Duration.millis(5000) })
  })

  it("forgets a time window part by part", () => {
    const circuit = drive(settings({ trip: rate({ millis: 1000, minimumCalls: 100 }) }))
    const calls = () => {
      const state = circuit.state()
      return state._tag === "Closed" ? Circuit.totals(state.tally) : undefined
    }
    for (const at of [0, 100, 200, 300]) {
      circuit.call("success", at)
      circuit.call(at === 300 ? "failure" : "success", at + 50)
    }
    assert.deepStrictEqual(calls(), { calls: 8, failed: 1, slow: 0 })

    circuit.call("success", 1050)
    assert.deepStrictEqual(calls(), { calls: 7, failed: 1, slow: 0 })

    circuit.call("success", 1350)
    assert.deepStrictEqual(calls(), { calls: 2, failed: 0, slow: 0 })
  })

  it("does not open on two failures that are further apart than the window", () => {
    const circuit = drive(settings({ trip: rate({ millis: 200, minimumCalls: 2 }) }))
    circuit.call("failure", 0)
    circuit.call("failure", 300)
    assert.strictEqual(circuit.tag(), "Closed")

    circuit.call("failure", 350)
    assert.strictEqual(circuit.tag(), "Open")
  })

  it("opens on a success when it completes the minimum of calls", () => {
    const circuit = drive(settings({ trip: rate({ minimumCalls: 5, failureRate: 0.6 }) }))
    for (const verdict of ["failure", "failure", "failure", "success"] as const) circuit.call(verdict, 0)
    assert.strictEqual(circuit.tag(), "Closed")

    circuit.call("success", 0)
    assert.strictEqual(circuit.tag(), "Open")
  })

  it("forgets the oldest call of a full count window", () => {
    const circuit = drive(settings({ trip: rate({ size: 4, minimumCalls: 4, failureRate: 0.5 }) }))
    for (const verdict of ["failure", "success", "success", "success", "failure"] as const) circuit.call(verdict, 0)
    assert.strictEqual(circuit.tag(), "Closed")

    circuit.call("failure", 0)
    assert.strictEqual(circuit.tag(), "Open")
  })

  it("opens on slow calls although none failed", () => {
    const circuit = drive(settings({ trip: rate({ minimumCalls: 4, slowAfter: 100, slowRate: 0.75 }) }))
    for (const duration of [150, 150, 50]) circuit.call("success", 0, { duration })
    assert.strictEqual(circuit.tag(), "Closed")

    circuit.call("success", 0, { duration: 100 })
    assert.strictEqual(circuit.tag(), "Open")
  })

  it("with four probes, opens when failures reach the rate and closes when they stay below", () => {
    const trip = rate({ minimumCalls: 1, failureRate: 0.5 })
    for (const [verdicts, end] of [
      [["failure", "failure", "failure"], "Open"],
      [["failure", "success", "success", "success"], "Closed"]
    ] as const) {
      const circuit = drive(settings({ trip, probes: 4, probeFailureRate: 0.5 }))
      circuit.call("failure", 0)
      const admissions = verdicts.map(() => circuit.admit(1000))
      verdicts.forEach((verdict, index) => circuit.record(admissions[index], verdict, 1001))

      assert.strictEqual(circuit.tag(), end)
    }
  })

  it("opens again on slow probes although none failed", () => {
    const circuit = drive(
      settings({ trip: rate({ minimumCalls: 1, slowAfter: 100, slowRate: 0.75 }), probes: 4, probeFailureRate: 0.5 })
    )
    circuit.call("failure", 0)
    for (let probe = 0; probe < 3; probe++) circuit.call("success", 1000, { duration: 200 })

    assert.strictEqual(circuit.tag(), "Open")
  })

  it("gives exactly four probe permits, and a permit that was given back can be taken again", () => {
    const circuit = drive(settings({ trip: consecutive(1), probes: 4 }))
    circuit.call("failure", 0)
    const admissions = [1, 2, 3, 4].map(() => circuit.admit(1000))
    assert.isUndefined(circuit.admit(1000))

    circuit.record(admissions[0], "ignored", 1001)

    assert.isDefined(circuit.admit(1001))
    assert.isUndefined(circuit.admit(1001))
  })

  it("opens as soon as enough of ten probes failed, and closes on the tenth good one", () => {
    const make = () => drive(settings({ trip: consecutive(1), probes: 10, probeFailureRate: 0.4 }))
    const bad = make()
    bad.call("failure", 0)
    for (let failures = 0; failures < 3; failures++) bad.call("failure", 1000)
    assert.strictEqual(bad.tag(), "HalfOpen")
    bad.call("failure", 1000)
    assert.strictEqual(bad.tag(), "Open")

    const good = make()
    good.call("failure", 0)
    for (let successes = 0; successes < 9; successes++) good.call("success", 1000)
    assert.strictEqual(good.tag(), "HalfOpen")
    good.call("success", 1000)
    assert.strictEqual(good.tag(), "Closed")
  })

  it("lets a failing probe open again although the window's minimum of calls is not reached", () => {
    const circuit = drive(settings({ trip: rate({ minimumCalls: 10 }), probeFailureRate: 0.5 }))
    for (let calls = 0; calls < 10; calls++) circuit.call("failure", 0)
    circuit.call("failure", 1000)

    assert.strictEqual(circuit.tag(), "Open")
  })

  it("counts a probe that never answers as failed once its lease ran out, and drops its late result", () => {
    const circuit = drive(settings({ trip: consecutive(1) }))
    circuit.call("failure", 0)
    const hung = circuit.admit(1000)
    assert.isUndefined(circuit.admit(1499))

    assert.deepStrictEqual(circuit.peek(1500), { _tag: "CircuitOpen", retryAfter: Duration.millis(1000) })
    assert.strictEqual(circuit.record(hung, "success", 1600)._tag, "Dropped")
    assert.isDefined(circuit.admit(2500))
  })

  it("drops a result of a call that was admitted before the circuit moved on", () => {
    const circuit = drive(settings({ trip: consecutive(1) }))
    const early = circuit.admit(0)
    circuit.call("failure", 0)
    circuit.call("success", 1000)

    assert.strictEqual(circuit.record(early, "failure", 1001)._tag, "Dropped")
    assert.strictEqual(circuit.tag(), "Closed")
  })

  it("lets nothing pass while isolated, not even as a last resort, until reset or until the time is over", () => {
    const circuit = drive(settings())
    circuit.apply({ _tag: "Isolate", because: "maintenance", duration: Infinity }, 0)
    assert.deepStrictEqual(circuit.peek(1e9, true), { _tag: "Isolated", because: "maintenance" })
    circuit.apply({ _tag: "Reset" }, 1e9)
    assert.isDefined(circuit.admit(1e9))

    circuit.apply({ _tag: "Isolate", because: "maintenance", duration: 100 }, 0)
    assert.isUndefined(circuit.admit(99))
    assert.isDefined(circuit.admit(100))
  })

  it("lets one call through an open circuit as a last resort", () => {
    const circuit = drive(settings({ trip: consecutive(1) }))
    circuit.call("failure", 0)
    assert.isUndefined(circuit.admit(1))

    assert.isDefined(circuit.admit(1, true))
    assert.isUndefined(circuit.admit(1, true))
  })

  it("refuses to go from closed to half-open by hand", () => {
    const circuit = drive(settings({ trip: consecutive(1) }))
    assert.strictEqual(circuit.apply({ _tag: "HalfOpen" }, 0)._tag, "Illegal")
    circuit.call("failure", 0)
    assert.strictEqual(circuit.apply({ _tag: "HalfOpen" }, 1)._tag, "Done")
    assert.strictEqual(circuit.tag(), "HalfOpen")
  })

  it("keeps what is left of an opening, probes at once after half-open, and partial counts in a snapshot", () => {
    const rules = settings({ trip: consecutive(2) })
    const circuit = drive(rules)
    circuit.call("failure", 0)
    const partial = Circuit.restore(rules, Circuit.snapshot(circuit.state(), 0), 5000)
    assert.strictEqual(Circuit.step(rules, partial, failureOf(partial), 5000)[0]._tag, "Open")

    circuit.call("failure", 0)
    const opened = Circuit.restore(rules, Circuit.snapshot(circuit.state(), 400), 5000)
    assert.deepStrictEqual(Circuit.peek(rules, opened, usual, 5000), {
      _tag: "CircuitOpen",
      retryAfter: Duration.millis(600)
    })

    circuit.admit(1000)
    const probing = Circuit.restore(rules, Circuit.snapshot(circuit.state(), 1000), 5000)
    assert.isUndefined(Circuit.peek(rules, probing, usual, 5000))
  })

  it("keeps an isolation without an end through a file", () => {
    const rules = settings()
    const circuit = drive(rules)
    circuit.apply({ _tag: "Isolate", because: "incident 42", duration: Infinity }, 0)
    const isolated = Circuit.restore(rules, written(Circuit.snapshot(circuit.state(), 0)), 5000)

    assert.deepStrictEqual(Circuit.peek(rules, isolated, usual, 1e12), { _tag: "Isolated", because: "incident 42" })
  })

  it("forgets restored counts as fast as others, whatever the clock of the new process says", () => {
    const rules = settings({ trip: rate({ millis: 1000, minimumCalls: 10 }) })
    const circuit = drive(rules)
    circuit.call("failure", 1_000_150)
    circuit.call("failure", 1_000_950)
    const kept = Circuit.snapshot(circuit.state(), 1_000_950)

    const restored = Circuit.restore(rules, kept, 50)
    const after = (now: number) => {
      const [state] = Circuit.step(rules, restored, successOf(restored), now)
      return state._tag === "Closed" && Circuit.totals(state.tally)
    }
    assert.deepStrictEqual(after(150), { calls: 3, failed: 2, slow: 0 })
    assert.deepStrictEqual(after(250), { calls: 2, failed: 1, slow: 0 })
    assert.deepStrictEqual(after(1050), { calls: 1, failed: 0, slow: 0 })
  })

  it("restores the newest calls of a window whose size is another now", () => {
    const sized = (size: number) => settings({ trip: rate({ size, minimumCalls: size, failureRate: 1 }) })
    const circuit = drive(sized(4))
    for (const verdict of ["failure", "success", "failure", "failure", "success", "failure"] as const)
      circuit.call(verdict, 0)
    const kept = Circuit.snapshot(circuit.state(), 0)
    const totals = (size: number, successes: number) => {
      let state = Circuit.restore(sized(size), kept, 0)
      for (let calls = 0; calls < successes; calls++) state = Circuit.step(sized(size), state, successOf(state), 0)[0]
      return state._tag === "Closed" && Circuit.totals(state.tally)
    }

    assert.deepStrictEqual(totals(3, 0), { calls: 3, failed: 2, slow: 0 })
    assert.deepStrictEqual(totals(3, 1), { calls: 3, failed: 1, slow: 0 })
    assert.deepStrictEqual(totals(6, 1), { calls: 5, failed: 3, slow: 0 })
    assert.deepStrictEqual(totals(6, 4), { calls: 6, failed: 1, slow: 0 })
  })
})

/** What is left of a snapshot that was kept as JSON. */
const written = (snapshot: Circuit.Snapshot): Circuit.Snapshot =>
  JSON.parse(JSON.stringify(snapshot)) as Circuit.Snapshot

const usual: Circuit.Urgency = { lastResort: false, insists: false }

const failureOf = (state: Circuit.State): Circuit.Event => ({
  _tag: "Record",
  admission: { number: 0, generation: state.generation, lease: undefined, ramped: false },
  verdict: "failure",
  duration: 0,
  retryAfter: 0
})

const successOf = (state: Circuit.State): Circuit.Event => ({
  _tag: "Record",
  admission: { number: 0, generation: state.generation, lease: undefined, ramped: false },
  verdict: "success",
  duration: 0,
  retryAfter: 0
})

/**
 * The same rules said in the most naive way: a list of everything that happened, looked through from the start at every question.
 */
class Reference {
  private mode: "Closed" | "Open" | "HalfOpen" = "Closed"
  private since: Array<{ readonly at: number; readonly failed: boolean; readonly id: number }> = []
  private until = 0
  private epoch = 0
  private ids = 0
  private probes: Array<{ readonly id: number; readonly until: number }> = []
  private verdicts: Array<boolean> = []
  private readonly rules: Circuit.Settings

  constructor(rules: Circuit.Settings) {
    this.rules = rules
  }

  tick(now: number): void {
    const expired = this.probes.find((probe) => probe.until <= now)
    if (this.mode === "HalfOpen" && expired !== undefined) this.open(expired.until)
  }

  open(now: number): void {
    this.mode = "Open"
    this.epoch++
    this.until = now + this.rules.openFor(1)
    this.since = []
    this.probes = []
    this.verdicts = []
  }

  admit(now: number): { readonly epoch: number; readonly id: number } | undefined {
    this.tick(now)
    if (this.mode === "Open" && now >= this.until) {
      this.mode = "HalfOpen"
      this.epoch++
    }
    if (this.mode === "Open") return undefined
    if (this.mode === "HalfOpen") {
      if (this.probes.length + this.verdicts.length >= this.rules.probes) return undefined
      this.probes.push({ id: this.ids, until: now + this.rules.probeLease })
    }
    return { epoch: this.epoch, id: this.ids++ }
  }

  record(ticket: { readonly epoch: number; readonly id: number }, verdict: string, now: number): void {
    this.tick(now)
    if (ticket.epoch !== this.epoch) return
    const failed = verdict === "failure"
    if (this.mode === "HalfOpen") {
      if (!this.probes.some((probe) => probe.id === ticket.id)) return
      this.probes = this.probes.filter((probe) => probe.id !== ticket.id)
      if (verdict === "ignored") return
      this.verdicts.push(failed)
      const failures = this.verdicts.filter(Boolean).length
      if (failures > 0 && failures / this.rules.probes >= this.rules.probeFailureRate) this.open(now)
      else if (this.verdicts.length >= this.rules.probes) {
        this.mode = "Closed"
        this.epoch++
        this.since = []
        this.verdicts = []
      }
    } else if (this.mode === "Closed" && verdict !== "ignored") {
      this.since.push({ at: now, failed, id: ticket.id })
      if (this.trips(now)) this.open(now)
    }
  }

  private trips(now: number): boolean {
    const { trip } = this.rules
    if (trip._tag === "Consecutive") {
      const recent = this.since.slice(-trip.failures)
      if (recent.length === trip.failures && recent.every((call) => call.failed)) return true
      const lastSuccess = Math.max(-1, ...this.since.flatMap((call) => (call.failed ? [] : [call.id])))
      const failed = new Set(this.since.flatMap((call) => (call.failed && call.id > lastSuccess ? [call.id] : [])))
      return [...failed].some((id) =>
        Array.from({ length: trip.failures }, (_, next) => id + next).every((one) => failed.has(one))
      )
    }
    const { window } = trip
    const seen =
      window._tag === "Count"
        ? this.since.slice(-window.size)
        : this.since.filter(({ at }) => {
            const width = window.millis / window.buckets
            return Math.floor(at / width) > Math.floor(now / width) - window.buckets
          })
    const failures = seen.filter((call) => call.failed).length
    return seen.length >= trip.minimumCalls && failures > 0 && failures / seen.length >= trip.failureRate
  }

  get state(): string {
    return this.mode
  }
}

describe("Slow start", () => {
  /** A circuit that a probe has just closed, at 1000. */
  const recovered = (overrides?: Partial<Circuit.Settings>) => {
    const circuit = drive(settings({ trip: consecutive(2), slowStart: 10_000, ...overrides }))
    while (circuit.tag() !== "Open") circuit.call("failure", 0)
    circuit.call("success", 1000)
    return circuit
  }
  const admitted = (circuit: ReturnType<typeof drive>, now: number): ReadonlyArray<Circuit.Admission> => {
    const all: Array<Circuit.Admission> = []
    for (let one = circuit.admit(now); one !== undefined && all.length < 1000; one = circuit.admit(now)) all.push(one)
    return all
  }

  it("lets two calls pass after a recovery, and doubles with each round of successes", () => {
    const circuit = recovered()

    const rounds = [1100, 1200, 1300, 1400].map((now) => {
      const round = admitted(circuit, now)
      for (const one of round) circuit.record(one, "success", now)
      return round.length
    })

    assert.deepStrictEqual(rounds, [2, 4, 8, 16])
  })

  it("refuses further calls as recovering, but not those who insist", () => {
    const circuit = recovered()
    admitted(circuit, 1100)

    assert.deepStrictEqual(circuit.peek(1100), { _tag: "Recovering" })
    assert.isDefined(circuit.admit(1100, false, true))
  })

  it("is over when its time is", () => {
    const circuit = recovered()

    assert.strictEqual(admitted(circuit, 10_999).length, 2)
    assert.strictEqual(admitted(circuit, 11_000).length, 1000)
  })

  it("counts a stream that has begun once, when it ends", () => {
    const circuit = recovered()
    const [first, second] = admitted(circuit, 1100)
    assert.isDefined(first)
    assert.isDefined(second)
    circuit.record(second, "failure", 1200)
    circuit.apply({ _tag: "Began", admission: first }, 1300)

    assert.strictEqual(admitted(circuit, 1300).length, 2)
    circuit.record({ ...first, ramped: false }, "failure", 1400)
    assert.strictEqual(circuit.tag(), "Open")
  })

  it("halves with a failure, and never goes below one", () => {
    const circuit = recovered({ trip: consecutive(100) })
    for (let call = 0; call < 5; call++) circuit.call("failure", 1100)

    assert.strictEqual(admitted(circuit, 1100).length, 1)
  })

  it("gives back what a caller held who left", () => {
    const circuit = recovered()

    for (const one of admitted(circuit, 1100)) circuit.record(one, "ignored", 1200)

    assert.strictEqual(admitted(circuit, 1200).length, 2)
  })

  it("does not happen to a circuit that was never open, nor after a reset", () => {
    const fresh = drive(settings({ slowStart: 10_000 }))
    const reset = recovered()
    reset.apply({ _tag: "Reset" }, 1100)

    assert.strictEqual(admitted(fresh, 0).length, 1000)
    assert.strictEqual(admitted(reset, 1100).length, 1000)
  })

  it.effect("has never more in flight than its limit, and none left when all calls have ended", () =>
    Effect.gen(function* () {
      for (let history = 0; history < 300; history++) {
        const circuit = recovered({ trip: consecutive(100) })
        let limit = 2
        const running: Array<Circuit.Admission> = []
        for (let event = 0; event < 100; event++) {
          if (yield* Random.nextBoolean) {
            const admission = circuit.admit(2000)
            assert.strictEqual(admission !== undefined, running.length < limit)
            if (admission !== undefined) running.push(admission)
          } else if (running.length > 0) {
            const [ended] = running.splice(yield* Random.nextIntBetween(0, running.length - 1), 1)
            const verdict = yield* Random.choice(["success", "failure", "ignored"] as const)
            circuit.record(ended, verdict, 2000)
            if (verdict === "success") limit++
            if (verdict === "failure") limit = Math.max(1, Math.floor(limit / 2))
          }
        }
        for (const one of running) circuit.record(one, "ignored", 2000)
        assert.strictEqual(admitted(circuit, 2000).length, limit)
      }
    }).pipe(Random.withSeed("slow start"))
  )
})

describe("A failed health check", () => {
  it("keeps an open circuit open, and never shortens it", () => {
    const circuit = drive(settings({ trip: consecutive(1) }))
    circuit.call("failure", 0)

    circuit.apply({ _tag: "Hold", duration: 100 }, 0)
    assert.deepStrictEqual(circuit.peek(0), { _tag: "CircuitOpen", retryAfter: Duration.millis(1000) })
    circuit.apply({ _tag: "Hold", duration: 5000 }, 900)
    assert.deepStrictEqual(circuit.peek(900), { _tag: "CircuitOpen", retryAfter: Duration.millis(5000) })
  })

  it("does nothing to a circuit that is not open", () => {
    const circuit = drive(settings())

    circuit.apply({ _tag: "Hold", duration: 5000 }, 0)

    assert.strictEqual(circuit.tag(), "Closed")
    assert.isUndefined(circuit.peek(0))
  })
})

describe("Circuit against a naive reference", () => {
  const rulebook: ReadonlyArray<Circuit.Settings> = [
    settings({ trip: consecutive(1) }),
    settings({ trip: consecutive(3), probes: 2 }),
    settings({ trip: rate({ size: 5, minimumCalls: 3 }), probes: 4, probeFailureRate: 0.5 }),
    settings({ trip: rate({ size: 10, minimumCalls: 10, failureRate: 0.3 }), probes: 3, probeFailureRate: 0.3 }),
    settings({ trip: rate({ millis: 2000, minimumCalls: 4 }), probes: 2, probeFailureRate: 0.5 })
  ]

  it.effect("agrees on every admission and state over thousands of random histories", () =>
    Effect.gen(function* () {
      let opened = 0
      for (let history = 0; history < 4000; history++) {
        const rules = rulebook[history % rulebook.length] ?? settings()
        const circuit = drive(rules)
        const reference = new Reference(rules)
        const running: Array<{
          readonly mine: Circuit.Admission
          readonly theirs: { readonly epoch: number; readonly id: number }
        }> = []
        let now = 0
        for (let event = 0; event < 60; event++) {
          now += (yield* Random.nextIntBetween(0, 10)) < 8 ? yield* Random.nextIntBetween(0, 60) : 700
          if (running.length === 0 || (yield* Random.nextBoolean)) {
            const mine = circuit.admit(now)
            const theirs = reference.admit(now)
            assert.strictEqual(
              mine !== undefined,
              theirs !== undefined,
              `history ${history}, event ${event}: admission`
            )
            if (mine !== undefined && theirs !== undefined) running.push({ mine, theirs })
          } else {
            const index = yield* Random.nextIntBetween(0, running.length - 1)
            const [ended] = running.splice(index, 1)
            const verdict = yield* Random.choice(["success", "failure", "failure", "ignored"] as const)
            if (ended !== undefined) {
              circuit.record(ended.mine, verdict, now)
              reference.record(ended.theirs, verdict, now)
            }
          }
          assert.strictEqual(circuit.tag(), reference.state, `history ${history}, event ${event}: state`)
          if (circuit.tag() === "Open") opened++
        }
      }
      assert.isAbove(opened, 1000)
    }).pipe(Random.withSeed("circuit"))
  )
})
