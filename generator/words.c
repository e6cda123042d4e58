/* words.c - the lists, and a table of them filled once. */
#include "words.h"

#include <pthread.h>

static const char function_words[] = " a an the of to in on at by for with from as is are was were be been "
                                     "being it its this that these those and or but if then "
                                     "than so do does did done doing have has had having he she they him his "
                                     "her hers their theirs them i you your yours we our ours "
                                     "us me my mine who whom whose which what when where why how can could "
                                     "may might must shall should will would there here also "
                                     "such into over under between about after before during up down out off "
                                     "again other both own same too very s t just don now d "
                                     "ll m o re ve y while because through per via however additionally "
                                     "overall further furthermore moreover therefore thus hence "
                                     "any each all some most more many few several only every either upon "
                                     "within without along among across toward towards against "
                                     "until since once even still yet already often usually typically "
                                     "generally always never not no nor neither none cannot "
                                     "e.g i.e etc one's it's that's there's isn't aren't wasn't weren't "
                                     "don't doesn't didn't can't couldn't won't wouldn't shouldn't "
                                     "based according given passage passages source sources document "
                                     "documents provided mentioned stated following below above ";
static const char negators[] =
    " not no never neither nor none cannot without isn't aren't wasn't weren't don't doesn't didn't can't "
    "couldn't won't wouldn't "
    "shouldn't hasn't haven't hadn't mustn't needn't nobody nothing lacks lack unable ";
static const char universals[] =
    " all every each always everyone everybody everything entire entirely completely whole ";
static const char partials[] = " some sometimes often many most several few occasionally partly partially "
                               "usually typically generally mostly rarely seldom hardly ";
static const char musts[] = " must required mandatory obligatory shall has have need needs ";
static const char mays[] = " may might can could optional optionally voluntary should ";
static const char comparatives[] =
    " later more less longer fewer earlier sooner only than just least most greater higher lower further ";

const char word_opposites[] =
    "increase decrease increases decreases increased decreased increasing decreasing rise fall rises falls "
    "rose fell rising falling "
    "grow shrink grew shrank growth decline raise lower raised lowered gain loss gained lost more less most "
    "least higher lower "
    "highest lowest high low before after earlier later early late earliest latest start end starts ends "
    "started ended begin finish "
    "begins finishes began finished open close opens closes opened closed first last above below over under "
    "up down upward downward "
    "maximum minimum max min upper lower larger smaller largest smallest large small big little bigger "
    "smaller biggest smallest long "
    "short longer shorter longest shortest fast slow faster slower fastest slowest quick slow strong weak "
    "stronger weaker strongest "
    "weakest strengthen weaken hot cold hotter colder warm cool warmer cooler heavy light heavier lighter "
    "old new older newer oldest "
    "newest old young older younger oldest youngest rich poor richer poorer cheap expensive cheaper costlier "
    "good bad better worse "
    "best worst safe dangerous safe unsafe easy difficult easier harder hard easy simple complex allow "
    "forbid allowed forbidden "
    "allowed prohibited permit prohibit permitted prohibited permitted forbidden allow deny accept reject "
    "accepted rejected approve "
    "reject approved rejected approved denied grant deny granted denied enable disable enabled disabled "
    "include exclude includes "
    "excludes included excluded including excluding add remove added removed create delete created deleted "
    "install uninstall "
    "encrypt decrypt encrypted unencrypted encrypted plaintext lock unlock locked unlocked connect "
    "disconnect connected disconnected "
    "online offline public private internal external inside outside inner outer input output import export "
    "imported exported buy "
    "sell bought sold lend borrow win lose wins loses won lost pass fail passed failed passes fails succeed "
    "fail success failure "
    "successful unsuccessful true false correct incorrect right wrong right left valid invalid legal illegal "
    "lawful unlawful "
    "possible impossible likely unlikely able unable active inactive present absent presence absence visible "
    "hidden known unknown "
    "common rare frequent rare frequently rarely often seldom always never often never all none everyone "
    "nobody everything nothing "
    "positive negative profit loss profitable unprofitable surplus deficit asset liability credit debit "
    "income expense revenue cost "
    "north south northern southern east west eastern western northeast southwest northwest southeast male "
    "female men women man woman "
    "boy girl husband wife father mother son daughter brother sister king queen day night morning evening "
    "winter summer daily weekly "
    "daily monthly daily annual daily annually weekly monthly weekly annually monthly annually monthly "
    "yearly weekly yearly quarterly "
    "annually mandatory optional required optional compulsory voluntary obligatory voluntary full empty full "
    "partial complete "
    "incomplete total partial permanent temporary paid unpaid paid free taxable exempt fixed variable manual "
    "automatic manually "
    "automatically synchronous asynchronous local remote single multiple single double alone together same "
    "different similar "
    "different equal unequal majority minority support oppose supports opposes supported opposed supporter "
    "opponent agree disagree "
    "agreed disagreed love hate like dislike praise criticize praised criticized attack defend attacked "
    "defended victory defeat war "
    "peace ally enemy friend enemy alive dead birth death born died live die lived died appear disappear "
    "appeared disappeared arrive "
    "depart arrived departed arrival departure enter leave entered left hire fire hired fired employ dismiss "
    "join leave joined left "
    "upgrade downgrade upgraded downgraded promote demote promoted demoted expand contract expanded "
    "contracted accelerate decelerate "
    "improve worsen improved worsened improves worsens benefit harm beneficial harmful helpful harmful "
    "healthy unhealthy acid alkaline "
    "wet dry liquid solid raw cooked fresh stale fresh frozen clean dirty deep shallow thick thin wide "
    "narrow tall short near far "
    "front back top bottom forward backward clockwise counterclockwise vertical horizontal ascending "
    "descending sender receiver "
    "employer employee buyer seller landlord tenant teacher student doctor patient parent child customer "
    "supplier winner loser "
    "domestic foreign urban rural national international majority minority ancient modern odd even";

#define SLOTS 1024u /* power of two, under half full */
static struct {
    uint64_t key;
    uint16_t classes; /* and the level << 8 */
} slots[SLOTS];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void add_list(const char *list, unsigned class)
{
    for (const char *p = list; *p;) {
        while (*p == ' ')
            p++;
        const char *e = p;
        while (*e && *e != ' ')
            e++;
        if (e > p) {
            uint64_t key = cairn_xxh64(p, (size_t)(e - p), 0);
            size_t i = key & (SLOTS - 1);
            while (slots[i].classes && slots[i].key != key)
                i = (i + 1) & (SLOTS - 1);
            slots[i].key = key;
            slots[i].classes = (uint16_t)(slots[i].classes | class);
        }
        p = e;
    }
}

static const char soft_negators[] = " avoid avoids avoided avoiding prevent prevents prevented preventing "
                                    "against forbid forbids forbidden prohibit prohibits prohibited refuse "
                                    "refuses refused fail fails failed failing stop stops except excluding "
                                    "exclude excludes deny denies denied instead rather unless hardly "
                                    "barely rarely seldom reduce reduces want ";

static const char *const levels[] = {
    [LEVEL_ZERO] = " no none never neither nor nobody nothing nowhere ",
    [LEVEL_FEW] = " few rarely seldom hardly scarcely barely infrequently little minority ",
    [LEVEL_SOME] = " some sometimes several occasionally partly partially certain somewhat ",
    [LEVEL_MANY] = " many often frequently numerous much regularly ",
    [LEVEL_MOST] =
        " most mostly usually generally typically normally commonly mainly largely primarily majority "
        "nearly almost ",
    [LEVEL_ALL] =
        " all every each always everyone everybody everything entire entirely completely both whole "
        "fully constantly ",
    [LEVEL_ONLY] = " only solely exclusively merely ",
};

static void fill(void)
{
    add_list(function_words, WORD_FUNCTION);
    add_list(negators, WORD_NEGATOR);
    add_list(universals, WORD_UNIVERSAL);
    add_list(partials, WORD_PARTIAL);
    add_list(musts, WORD_MUST);
    add_list(mays, WORD_MAY);
    add_list(comparatives, WORD_COMPARATIVE);
    add_list(soft_negators, WORD_SOFT_NEGATOR);
    for (unsigned i = LEVEL_ZERO; i <= LEVEL_ONLY; i++)
        add_list(levels[i], i << 8);
}

unsigned word_classes(const char *w, size_t len)
{
    if (len == 0 || len > 16)
        return 0;
    (void)pthread_once(&once, fill);
    uint64_t key = cairn_xxh64(w, len, 0);
    for (size_t i = key & (SLOTS - 1); slots[i].classes; i = (i + 1) & (SLOTS - 1))
        if (slots[i].key == key)
            return slots[i].classes;
    return 0;
}
