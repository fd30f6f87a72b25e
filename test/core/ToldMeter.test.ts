import { assert, describe, it } from "@effect/vitest"
import { ToldMeter } from "@llm-resilience/core"

const told = (limit: number | undefined, remaining: number, resetMillis: number): ToldMeter.Report => ({
  limit,
  remaining,
  resetMillis
})

const learnt = (report: ToldMeter.Report, now = 0, self?: ToldMeter.ToldMeter): ToldMeter.ToldMeter => {
  const meter = ToldMeter.learn(self, report, 60_000, now)
  if (meter === undefined) throw new Error("learnt nothing")
  return meter
}

const taken = (self: ToldMeter.ToldMeter, times: number, now: number): ToldMeter.ToldMeter => {
  let meter = self
  for (let call = 0; call < times; call++) meter = ToldMeter.take(meter, 1, now)
  return meter
}

describe("ToldMeter", () => {
  it("makes a call wait for what comes first: its part of an even filling, or the reset", () => {
    const meter = learnt(told(100, 0, 200_000), 5000)

    assert.deepStrictEqual(
      [1, 10, 100, 1000].map((amount) => ToldMeter.waitFor(meter, amount, 5000)),
      [2000, 20_000, 200_000, 200_000]
    )
    assert.strictEqual(ToldMeter.left(meter, 25_000), 10)
    assert.strictEqual(ToldMeter.waitFor(taken(meter, 90, 5000), 100, 195_000), 10_000)
  })

  it("lets pass what the reported rest covers, however the reset shrinks meanwhile", () => {
    let meter = learnt({ ...told(60, 59, 60_000) })
    for (let used = 2; used <= 60; used++) {
      assert.strictEqual(ToldMeter.waitFor(meter, 1, used * 20), 0, `${used}`)
      meter = taken(meter, 1, used * 20)
      meter = learnt({ ...told(60, 60 - used, 60_000 - used * 20), mark: meter.taken }, used * 20, meter)
    }

    assert.closeTo(ToldMeter.waitFor(meter, 1, 1200), 980, 1e-6)
  })

  it("believes a newer report, whatever was taken at the rate of the older one", () => {
    const busy = taken(learnt(told(4000, 3999, 1000)), 100, 500)
    const meter = learnt({ ...told(4000, 3900, 2000), mark: 100 }, 500, busy)

    assert.deepStrictEqual([ToldMeter.waitFor(meter, 1, 500), ToldMeter.left(meter, 500)], [0, 3900])
  })

  it("adds what was sent after the call that brought the report, and leaves out what was sent before", () => {
    const busy = taken(learnt(told(60, 50, 60_000)), 30, 0)
    const meter = learnt({ ...told(60, 40, 60_000), mark: 10 }, 0, busy)

    assert.strictEqual(ToldMeter.left(meter, 0), 20)
    // A slow answer to an earlier call tells nothing new.
    assert.strictEqual(ToldMeter.left(learnt({ ...told(60, 49, 60_000), mark: 1 }, 0, meter), 0), 20)
  })

  it("believes a call that was not counted when it was sent later, and counts the others on top", () => {
    const busy = taken(learnt({ ...told(60, 0, 60_000), mark: 7 }), 5, 0)
    const later = learnt({ ...told(60, 30, 60_000), ageMillis: 100 }, 1000, busy)
    assert.strictEqual(Math.floor(ToldMeter.left(later, 900)), 25)

    assert.strictEqual(learnt({ ...told(60, 30, 60_000), ageMillis: 1001 }, 1000, busy), busy)
  })

  it("counts the reset from the moment in which the call was sent", () => {
    const meter = learnt({ ...told(10, 0, 50_000), ageMillis: 20_000 }, 100_000)

    assert.strictEqual(ToldMeter.waitFor(meter, 10, 100_000), 30_000)
    const late = learnt({ ...told(10, 0, 10_000), ageMillis: 20_000 }, 100_000)
    assert.strictEqual(ToldMeter.waitFor(late, 10, 100_000), 0)
  })

  it("is full after the reset but for those who waited for it", () => {
    const empty = learnt(told(4, 0, 1000))
    const waits: Array<number> = []
    let meter = empty
    for (let call = 0; call < 6; call++) {
      waits.push(ToldMeter.waitFor(meter, 4, 0))
      meter = ToldMeter.take(meter, 4, 0)
    }
    // Those who cannot all pass at the reset come after it, as it is filled.
    assert.deepStrictEqual(waits, [1000, 2000, 3000, 4000, 5000, 6000])
    assert.strictEqual(ToldMeter.left(ToldMeter.take(empty, 4, 0), 1000), 0)
    assert.strictEqual(ToldMeter.left(empty, 1000), 4)
  })

  it("does not let an answer from before the reset close what is open again", () => {
    const open = taken(learnt(told(60, 0, 1000)), 5, 2000)
    const meter = learnt({ ...told(60, 0, 1500), ageMillis: 1900 }, 2200, open)

    assert.strictEqual(ToldMeter.left(meter, 2000), 55)
  })

  it("goes on from a report that says that all is left", () => {
    const busy = taken(learnt(told(1000, 0, 60_000)), 3, 0)
    for (const resetMillis of [0, undefined, 100]) {
      const meter = learnt({ limit: 1000, remaining: 1000, resetMillis, mark: 2 }, 0, busy)
      assert.strictEqual(ToldMeter.left(meter, 0), 999, `${resetMillis}`)
    }
  })

  it("gives back what no report knows of, and nothing that one knows of", () => {
    const busy = taken(learnt(told(60, 60, 60_000)), 4, 0)
    assert.strictEqual(ToldMeter.left(ToldMeter.give(busy, 1, 2, 0), 0), 57)
    assert.strictEqual(ToldMeter.left(ToldMeter.give(busy, -5, 2, 0), 0), 51)
    assert.strictEqual(ToldMeter.left(ToldMeter.give(busy, 1, undefined, 0), 0), 56)

    const later = learnt({ ...told(60, 30, 60_000), mark: 2 }, 0, busy)
    assert.strictEqual(ToldMeter.left(ToldMeter.give(later, 1, 2, 0), 0), 28)
    assert.strictEqual(ToldMeter.left(ToldMeter.give(later, 1, 3, 0), 0), 29)
  })

  it("spreads what was given back over what was taken when a report comes", () => {
    const busy = taken(learnt(told(60, 60, 60_000)), 4, 0)
    const meter = learnt({ ...told(60, 30, 60_000), mark: 2 }, 0, ToldMeter.give(busy, 2, 4, 0))

    assert.strictEqual(ToldMeter.left(meter, 0), 29)
  })

  it("is closed until the reset when nothing is left and nobody says of how much, but not for ever", () => {
    const [short, long] = [learnt(told(undefined, 0, 10_000)), learnt(told(undefined, 0, 1e9))]

    assert.strictEqual(ToldMeter.waitFor(short, 1, 0), 10_000)
    assert.deepStrictEqual([ToldMeter.left(short, 9999), ToldMeter.left(short, 10_000)], [0, Infinity])
    assert.strictEqual(ToldMeter.waitFor(long, 1, 0), 60_000)
    assert.strictEqual(ToldMeter.waitFor(learnt(told(undefined, 3, 1e9), 0, long), 1, 0), 0)
  })

  it("learns nothing from half a report", () => {
    for (const report of [
      { limit: 10, remaining: undefined, resetMillis: 1000 },
      { limit: 10, remaining: 5, resetMillis: undefined },
      { limit: undefined, remaining: 5, resetMillis: 1000 },
      { limit: undefined, remaining: 0, resetMillis: undefined }
    ]) {
      assert.isUndefined(ToldMeter.learn(undefined, report, 60_000, 0))
    }
  })
})
