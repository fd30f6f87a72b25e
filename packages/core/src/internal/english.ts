/** The closed word lists of the canonical key and of the difference guard. Each is small on purpose: what is not listed counts as a difference. */

const set = (words: string): ReadonlySet<string> => new Set(words.split(/\s+/))

const table = (rows: string): ReadonlyMap<string, string> =>
  new Map(
    rows
      .trim()
      .split(/\s*\n\s*/)
      .flatMap((row) => {
        const [to = "", ...from] = row.split(/\s+/)
        return from.map((word): [string, string] => [word, to])
      })
  )

/** Words that show that a text is English. None of them is a common word of another language written in Latin letters. */
export const english = set(`
  the what how why who where when which whose does did do doing is are were of to for with without and or not from about
  my your his her their our this that these those can could would should must have has had been being you i it they we
  explain tell describe write give show summarize compare recommend suggest translate create make convert draft
  classify rewrite fix proofread please between than there into if by be
`)

/** Words that show that it is not. */
export const foreign = set(`
  der das und ist wie nicht ein eine einen einem mein meine ich sie wir ihr für mit von zu auf welche welcher warum wer wo kann
  le les des une est que qui quoi quel quelle quels quelles comment pourquoi où et dans pour avec je vous nous mon ma mes du au
  el los las una es qué cómo por porque para con cuál cuáles dónde quién mi mis del lo en y de da na
  il gli che come perché per uno sono di della delle nel è o os um uma são não como onde qual quais e
  het een wat hoe waarom wie waar niet van voor mijn ik og hur vad jag är det att ikke hvordan jak co jest dla nie hogyan mi nasıl bir ve kostet gibt macht hat sind wird geht dit dat zijn hoeveel
`)

export const questionWords = set("what how why who whom whose where when which")

export const auxiliaries = set(
  "is are was were am do does did can could will would should shall may might must has have had ought"
)

export const modals = set("can could will would should shall may might must ought need")

export const negations = set(
  "not no never without none nobody nothing neither nor nowhere non hardly barely except unless"
)

export const articles = set("a an the")

/** Verbs that open an instruction, so that "could you explain" is "explain". */
export const imperatives = set(`
  explain tell describe summarize compare recommend suggest translate define outline
  rewrite proofread classify paraphrase rephrase clarify elaborate
`)

/** Verbs that do so when what follows is plainly ours: "can you fix a screen" asks whether it can be done. */
export const weakImperatives = set(`
  write give draft compose generate provide show list name convert fix check help find make create teach calculate compute solve analyze extract correct review identify sort
  design build plan develop prepare implement shorten simplify edit improve answer put determine
`)

/** Words that may fill a sentence and say nothing. */
export const fillers = set("exactly actually basically please")

/** Words after which a phrase of politeness may be the subject: "how do you say no, thank you". */
export const mentions = set(`
  say says saying said word words phrase phrases translate translation reply respond answer mean means meaning called pronounce spell
`)

export const greetings = set("hello hi hey greetings")

/** Superlatives without -est; where one stands, singular and plural ask for different answers. */
export const superlatives = set("most least best worst first last top only single main")

/** Words that mean something else with a capital letter inside a sentence. */
export const cased = set(`
  turkey china polish may march august apple rust go word windows excel swift target chrome oracle jobs amazon mercury java
  access teams outlook edge safari bush rice rose mark bill frank grant jack will art drew pat sue ray faith hope grace
  reading nice bath cork guinea chile jordan georgia mosaic shell gap zoom slack meta alphabet square stripe visa
  puma dove tide dawn crest ford saturn focus escape galaxy pixel surface basic scheme ruby dart
  express nest next remix chef puppet salt helm vault consul nomad sentry jest mocha cypress parcel gulp echo prime subway uber bolt plaid
  hunter amber summer penny crystal violet ivy daisy iris olive chase potter taylor
  signal discord notion linear cursor windsurf copilot gemini claude llama spark kafka flask django spring rails
`)

/** Words that mean something else in capital letters. */
export const acronyms = set(`
  a us it who aids act sat am pm or in me ok hi mom ram rom cat dos and not as is at be he my no so to we an on can has all one
  more ten ice fast she led gas sap aim pin pet pen pop pub red scan set smart start star tip if do for the up by go are but
  edge rest soap bash make less sass ant bat map app arm add age air ace asp bar bee bit bus car cap cop cog dad day den
  dim doe don ear eta fan fit gap gem get hat hip hot how hub ill inn ion jet key kin lab lap law let lid lot mac mad mat may
  mid mix net new nor now oat odd off oil old our out owl own par pay pit pro put rag ran rat raw ray rib rod row run sad
  see sip sit six sub sum tab tag tan tap tax tea the top toy try two use van vat via war was way wet why win won yes yet you zip
`)

export const numberWords: ReadonlyMap<string, number> = new Map(
  "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
    .split(" ")
    .map((word, value): [string, number] => [word, value])
)

export const tens: ReadonlyMap<string, number> = new Map(
  "twenty thirty forty fifty sixty seventy eighty ninety"
    .split(" ")
    .map((word, index): [string, number] => [word, (index + 2) * 10])
)

export const counting: ReadonlySet<string> = new Set([...numberWords.keys(), ...tens.keys()])

export const scales: ReadonlyMap<string, number> = new Map([
  ["hundred", 100],
  ["thousand", 1000],
  ["million", 1_000_000],
  ["billion", 1_000_000_000]
])

const ordinals =
  "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"

/** One spelling for words that are written in several ways; the meaning is the very same. */
export const spellings: ReadonlyMap<string, string> = new Map([
  ...table(`
    color colour
    colors colours
    favorite favourite
    favorites favourites
    favor favour
    behavior behaviour
    behaviors behaviours
    neighbor neighbour
    neighbors neighbours
    labor labour
    honor honour
    humor humour
    flavor flavour
    center centre
    theater theatre
    meter metre
    meters metres
    kilometer kilometre
    kilometers kilometres
    liter litre
    liters litres
    gray grey
    catalog catalogue
    defense defence
    license licence
    aluminum aluminium
    organize organise
    organized organised
    organizing organising
    organization organisation
    realize realise
    analyze analyse
    analyzing analysing
    optimize optimise
    summarize summarise
    customize customise
    recognize recognise
    minimize minimise
    maximize maximise
    apologize apologise
    traveling travelling
    canceled cancelled
    canceling cancelling
    modeling modelling
    someone somebody
    anyone anybody
    everyone everybody
    while whilst
    among amongst
    toward towards
    percent %
    ok okay
    anemia anaemia
    pediatric paediatric
    esophagus oesophagus
    fetus foetus
    maneuver manoeuvre
    encyclopedia encyclopaedia
    jewelry jewellery
    plow plough
    skeptical sceptical
    tire tyre
    tires tyres
    mold mould
    mustache moustache
    pajamas pyjamas
    rumor rumour
    harbor harbour
    savor savour
    vapor vapour
    armor armour
    odor odour
    tumor tumour
    traveler traveller
    travelers travellers
    traveled travelled
    modeled modelled
    labeled labelled
    labeling labelling
    fulfill fulfil
    skillful skilful
    enroll enrol
    program programme
    programs programmes
    fiber fibre
    caliber calibre
    offense offence
    pretense pretence
    minimized minimised
    minimizing minimising
    maximizing maximising
    summarized summarised
    summarizing summarising
    optimizing optimising
    optimized optimised
    optimization optimisation
    realized realised
    realizing realising
    recognized recognised
    customizing customising
    visualize visualise
    visualizing visualising
    criticize criticise
    emphasize emphasise
    prioritize prioritise
    categorize categorise
    memorize memorise
    standardize standardise
    authorize authorise
    globalization globalisation
    colonization colonisation
    industrialization industrialisation
    civilization civilisation
  `),
  ...ordinals.split(" ").map((word, index): [string, string] => {
    const value = index + 1
    const suffix = value === 1 ? "st" : value === 2 ? "nd" : value === 3 ? "rd" : "th"
    return [word, `${value}${suffix}`]
  })
])

/** Words the guard takes for each other. Only such that ask for the same answer in any question; the model has the last word. */
export const synonyms: ReadonlyMap<string, string> = table(`
  recommend suggest
  brief short
  large big
  largest biggest
  fast quick
  fastest quickest
  start begin
  buy purchase
  car automobile
  movies films
  child kid
  children kids
  photo photograph
  biography bio
  math maths mathematics
  tv television
  advantage benefit
  advantages benefits pros
  disadvantage drawback downside
  disadvantages drawbacks downsides cons
  method way
  methods ways
  if whether
  locate find
  difficult hard
  doctor physician
  lawyer attorney
  phone telephone
  info information
  ad advertisement
  help assist
  what which
  with using
  be is are
  was were
`)

/** Pairs of opposites. They only give a difference its name: any word that is not a synonym counts. */
export const antonyms: ReadonlyMap<string, string> = new Map(
  `advantage/disadvantage increase/decrease raise/lower on/off up/down high/low highest/lowest 1st/last positive/negative good/bad
  best/worst large/small largest/smallest long/short longest/shortest more/less most/least hot/cold before/after open/close
  open/closed enable/disable start/stop start/end add/remove buy/sell with/without to/from above/below over/under import/export
  win/lose love/hate accept/reject allow/forbid early/late easy/difficult fast/slow happy/sad rich/poor young/old new/old
  minimum/maximum max/min inside/outside encode/decode encrypt/decrypt upload/download push/pull install/uninstall lock/unlock
  legal/illegal possible/impossible true/false public/private safe/unsafe internal/external include/exclude ascending/descending
  gain/lose cheap/expensive cheapest/expensive lend/borrow teach/learn male/female man/woman rise/fall rise/collapse left/right`
    .split(/\s+/)
    .flatMap((pair): Array<[string, string]> => {
      const [left = "", right = ""] = pair.split("/")
      return [
        [left, right],
        [right, left]
      ]
    })
)

export const dates = set(`
  january february march april may june july august september october november december monday tuesday wednesday thursday friday
  saturday sunday today tomorrow yesterday spring summer autumn fall winter morning evening night week month year day century decade
  q1 q2 q3 q4
`)

export const units = set(`
  meter kilometer mile foot inch yard centimeter millimeter gram kilogram pound ounce ton liter gallon second minute hour celsius
  fahrenheit kelvin percent dollar euro yen usd eur gbp jpy $ € £ ¥ % kg km cm mm mg ml lb oz mph kmh byte kb mb gb tb
`)

/** What is written with the instruction to write it. */
export const artifacts = set(`
  function program script query poem story essay letter email biography bio recipe description summary article report haiku song speech review
  tweet post blog class method regex joke reply message outline paragraph limerick plan list schedule checklist itinerary template code
  slogan headline caption
`)

/** Languages of programming that a task is done in. */
export const languages = set(`
  python java javascript typescript kotlin scala ruby rust go swift php perl haskell c c++ c# f# sql bash elixir r matlab
`)

/** Adjectives after which "is it easy to eat eggs" and "are eggs easy to eat" are the same question. */
export const toughs = set("safe hard difficult easy ok legal illegal dangerous healthy unsafe unhealthy")
