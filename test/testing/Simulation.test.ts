import { assert, describe, it } from "@effect/vitest"
import { Simulation } from "@llm-resilience/testing"

describe("Simulation", () => {
  it("finds nothing wrong in the first seeds", () => {
    const { failed, requests, seeds } = Simulation.explore({ seeds: 60 })

    assert.strictEqual(failed === undefined ? "" : Simulation.format(failed), "")
    assert.strictEqual(seeds, 60)
    assert.isAbove(requests, 3000)
  })

  // Seeds that found something, when it was new.
  for (const [seed, found] of [
    [30, "a stream whose deadline passed while its reader was busy cleaned up in front of the reader"],
    [98, "the same in the chain's own deadline"],
    [563, "of two steps that failed at the same moment one was missing in the story"],
    [44_396, "a hedge that met a chain with nobody in it hid the call that had failed before it"],
    [63_123, "nothing, but the simulator did not wait until a result was told that its handler had refused twice"]
  ] as const) {
    it(`seed ${seed}: ${found}`, () => {
      assert.strictEqual(Simulation.run(seed).violation, undefined)
    })
  }

  for (const [seed, found] of [
    [
      14_486,
      "the loser of a hedge cleaned up in front of the reader, when it was interrupted a step later than the stream ended"
    ],
    [7356, "the same with a stream that an answer of the cache took the place of"]
  ] as const) {
    it(`seed ${seed}, with more streams and slow cleanup: ${found}`, () => {
      const { chain, steps, traffic, ...plan } = Simulation.plan(seed)
      const [first, ...others] = steps.map((step) => ({ ...step, cleanup: 4000 }))
      assert.isDefined(first)
      const { violation } = Simulation.run({
        ...plan,
        steps: [first, ...others],
        traffic: { ...traffic, streams: 0.6 },
        chain: { ...chain, recovery: "continue" }
      })

      assert.strictEqual(violation, undefined)
    })
  }

  it("seed 89, with streams, slow cleanup and preemption: who was to finish a broken stream and was late cleaned up in front of the reader", () => {
    const { chain, steps, traffic, ...plan } = Simulation.plan(89)
    const [first, ...others] = steps.map((step) => ({ ...step, cleanup: 4000, tokenEvery: 20 }))
    assert.isDefined(first)
    const { violation } = Simulation.run({
      ...plan,
      preemption: 0.02,
      steps: [first, ...others],
      traffic: { ...traffic, streams: 1, deadlines: 1 },
      chain: { ...chain, recovery: "continue" }
    })

    assert.strictEqual(violation, undefined)
  })

  it("refuses seeds that are none", () => {
    assert.throws(() => Simulation.run(2.5), "a seed must be an integer, got 2.5")
    assert.throws(() => Simulation.plan(NaN), "got NaN")
    assert.throws(() => Simulation.explore({ seeds: 0 }), "seeds must be an integer >= 1, got 0")
    assert.throws(() => Simulation.explore({ seeds: 1, from: NaN }), "got NaN")
  })

  it("is the same run again for the same seed", () => {
    for (const seed of [1, 2, 3, 40]) {
      assert.deepStrictEqual(Simulation.run(seed, { keptEvents: 500 }), Simulation.run(seed, { keptEvents: 500 }))
    }
    assert.notStrictEqual(Simulation.run(1).fingerprint, Simulation.run(2).fingerprint)
  })

  it("is not the same run when one request is missing", () => {
    const plan = Simulation.plan(3)
    const without = Simulation.run({ ...plan, requests: plan.requests.slice(1) })

    assert.strictEqual(without.violation, undefined)
    assert.notStrictEqual(without.fingerprint, Simulation.run(3).fingerprint)
  })

  // What most seeds do not have at all.
  const rare = ["requeued", "limited", "killed", "shutDown"]

  it("does everything that it is there to look at", () => {
    const sums = new Map<string, number>()
    Simulation.explore({
      seeds: 150,
      onRun: ({ counts }) => {
        for (const [name, count] of Object.entries(counts)) sums.set(name, (sums.get(name) ?? 0) + count)
      }
    })

    for (const [name, sum] of sums) if (!rare.includes(name)) assert.isAbove(sum, 50, name)
  })

  it("looks at several processes, too, and at operators who queue again what died", () => {
    const sums = new Map<string, number>()
    const seeds = Array.from({ length: 1000 }, (_, seed) => seed).filter((seed) => {
      const { replicas, requeues } = Simulation.plan(seed)
      return replicas !== undefined || requeues.length > 0
    })
    for (const seed of seeds) {
      const { counts, violation } = Simulation.run(seed)
      assert.strictEqual(violation, undefined)
      for (const [name, count] of Object.entries(counts)) sums.set(name, (sums.get(name) ?? 0) + count)
    }

    for (const name of rare) assert.isAbove(sums.get(name) ?? 0, 50, name)
  })
})
